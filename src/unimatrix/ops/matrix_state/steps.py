"""One token of the matrix state as vector instructions: what the compiled loops are made of.

A row of the state is one SIMD vector of S lanes, and a step is straight-line code over the S rows, emitted
here with numba's intrinsics: the auto-vectoriser unrolls such small constant loops into scalars first and
ends up four times slower (docs/log.md). LLVM splits the vectors to the machine's width; S is a power of two.

Letters: as in unimatrix.ops.matrix_state.compiled; g = dLoss/dS. Every tensor argument is two: a flat array
or an address (a tensor's data_ptr), and the offset of its S numbers (S * S for a state). The first array
tells the dtype of all.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

# what it returns is called from compiled code only, without the first parameter
vector_step: Any = intrinsic(prefer_literal=True)


class Emitter:
    """Vector arithmetic on rows of `lanes` numbers; thin names over llvmlite's builder."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any, lanes: int) -> None:
        self.context, self.builder, self.lanes = context, builder, lanes
        self.types, self.args = signature.args, args
        self.scalar = context.get_value_type(
            next(t.dtype for t in signature.args if isinstance(t, types.Array))
        )
        self.vector = ir.VectorType(self.scalar, lanes)
        name = f"llvm.fmuladd.v{lanes}{'f64' if isinstance(self.scalar, ir.DoubleType) else 'f32'}"
        self.fmuladd = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(self.vector, [self.vector] * 3), name
        )

    def pointer(self, number: int, *, offset: int | None = None) -> Any:
        """Where the numbers lie that argument `number` (array or address) and the next (or `offset`) name."""
        if isinstance(self.types[number], types.Array):
            make = self.context.make_array(self.types[number])
            start = make(self.context, self.builder, self.args[number]).data
        else:
            start = self.builder.inttoptr(self.args[number], self.scalar.as_pointer())
        return self.builder.gep(start, [self.args[number + 1 if offset is None else offset]])

    def load(self, pointer: Any, row: int = 0) -> Any:
        return self.builder.load(self._row(pointer, row), align=self._align(), typ=self.vector)

    def store(self, value: Any, pointer: Any, row: int = 0) -> None:
        self.builder.store(value, self._row(pointer, row), align=self._align())

    def load_scalar(self, pointer: Any, lane: int) -> Any:
        return self.builder.load(self._element(pointer, lane), typ=self.scalar)

    def store_scalar(self, value: Any, pointer: Any, lane: int = 0) -> None:
        self.builder.store(value, self._element(pointer, lane))

    def splat(self, value: Any) -> Any:
        """The scalar in every lane."""
        one = self.builder.insert_element(
            ir.Constant(self.vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
        )
        mask = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(one, ir.Constant(self.vector, ir.Undefined), mask)

    def zero(self) -> Any:
        return ir.Constant(self.vector, [0.0] * self.lanes)

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a * b + c."""
        return self.builder.call(self.fmuladd, [a, b, c])

    def sum(self, values: list[Any]) -> Any:
        """The sum of vectors, in pairs: additions that wait for each other are few."""
        while len(values) > 1:
            odd = values[-1:] if len(values) % 2 else []
            values = [self.builder.fadd(a, b) for a, b in zip(values[0::2], values[1::2], strict=False)] + odd
        return values[0]

    def accumulators(self) -> list[Any]:
        """Zeros to add to in turn, so that four fused multiply-adds are under way at once."""
        return [self.zero()] * min(4, self.lanes)

    def keep_lane(self, lane: int, value: Any, other: Any) -> Any:
        """`other` with one lane taken from `value`."""
        mask = [n + self.lanes if n == lane else n for n in range(self.lanes)]
        return self.builder.shuffle_vector(
            other, value, ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), mask)
        )

    def row_sums(self, rows: list[Any]) -> Any:
        """Lane n is the sum over the lanes of rows[n]: neighbours are added, log2(S) times."""
        n = self.lanes
        index = ir.VectorType(ir.IntType(32), n)
        even = ir.Constant(index, list(range(0, 2 * n, 2)))
        odd = ir.Constant(index, list(range(1, 2 * n, 2)))
        while len(rows) > 1:
            rows = [
                self.builder.fadd(
                    self.builder.shuffle_vector(a, b, even), self.builder.shuffle_vector(a, b, odd)
                )
                for a, b in zip(rows[0::2], rows[1::2], strict=True)
            ]
        return rows[0]

    def total(self, value: Any) -> Any:
        """The sum over the lanes."""
        while (width := value.type.count) > 1:
            half = ir.VectorType(ir.IntType(32), width // 2)
            undefined = ir.Constant(value.type, ir.Undefined)
            low = self.builder.shuffle_vector(value, undefined, ir.Constant(half, list(range(width // 2))))
            high = self.builder.shuffle_vector(
                value, undefined, ir.Constant(half, list(range(width // 2, width)))
            )
            value = self.builder.fadd(low, high)
        return self.builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    def _element(self, pointer: Any, lane: int) -> Any:
        return self.builder.gep(pointer, [ir.Constant(ir.IntType(64), lane)])

    def _row(self, pointer: Any, row: int) -> Any:
        return self.builder.bitcast(self._element(pointer, row * self.lanes), self.vector.as_pointer())

    def _align(self) -> int:
        return 8 if isinstance(self.scalar, ir.DoubleType) else 4


def step_signature(arguments: tuple[Any, ...]) -> Any:
    return types.void(*arguments)


@vector_step
def write_and_read(typing, dim, st, from_at, to_at, k, k_at, v, v_at, q, q_at, y, y_at, rho, a):
    """S = rho S + a k v^T, y = S q; reads the state at from_at in st and writes it at to_at.

    The state lies transposed: row j is the column j of S.
    """

    def emit(context, builder, signature, args):
        e = Emitter(context, builder, signature, args, dim.literal_value)
        state, after = e.pointer(1), e.pointer(1, offset=3)
        key, val, query, out = (e.pointer(n) for n in (4, 6, 8, 10))
        decay = e.splat(args[12])
        weighted = e.mul(e.load(key), e.splat(args[13]))
        y_t = e.accumulators()
        for j in range(e.lanes):
            s = e.fma(e.splat(e.load_scalar(val, j)), weighted, e.mul(decay, e.load(state, j)))
            e.store(s, after, j)
            n = j % len(y_t)
            y_t[n] = e.fma(e.splat(e.load_scalar(query, j)), s, y_t[n])
        e.store(e.sum(y_t), out)
        return context.get_dummy_value()

    return step_signature((dim, st, from_at, to_at, k, k_at, v, v_at, q, q_at, y, y_at, rho, a)), emit


@vector_step
def write_mixed_and_read(
    typing, dim, st, from_at, to_at, k, k_at, v, v_at, q, q_at, y, y_at, d, d_at, rho, a, b, c
):
    """S = rho S + a k v^T + b v k^T + c Diag(d), y = S q; the state lies as in write_and_read."""

    def emit(context, builder, signature, args):
        e = Emitter(context, builder, signature, args, dim.literal_value)
        state, after = e.pointer(1), e.pointer(1, offset=3)
        key, val, query, out, diag = (e.pointer(n) for n in (4, 6, 8, 10, 12))
        decay = e.splat(args[14])
        keys = e.mul(e.load(key), e.splat(args[15]))
        values = e.mul(e.load(val), e.splat(args[16]))
        diagonal = e.mul(e.load(diag), e.splat(args[17]))
        y_t = e.accumulators()
        for j in range(e.lanes):
            s = e.fma(e.splat(e.load_scalar(val, j)), keys, e.mul(decay, e.load(state, j)))
            s = e.fma(e.splat(e.load_scalar(key, j)), values, s)
            s = builder.fadd(s, e.keep_lane(j, diagonal, e.zero()))
            e.store(s, after, j)
            n = j % len(y_t)
            y_t[n] = e.fma(e.splat(e.load_scalar(query, j)), s, y_t[n])
        e.store(e.sum(y_t), out)
        return context.get_dummy_value()

    arguments = (dim, st, from_at, to_at, k, k_at, v, v_at, q, q_at, y, y_at, d, d_at, rho, a, b, c)
    return step_signature(arguments), emit


@vector_step
def reverse(
    typing, dim, g, g_at, s, s_at, k, k_at, v, v_at, q, q_at, dy, dy_at,
    dk, dk_at, dv, dv_at, d_rho, d_rho_at, d_a, d_a_at, decay, a,
):  # fmt: skip
    """g = decay g + dy q^T, then what this token's k, v, rho and a get from it.

    g is not transposed; s is S_{t-1} in the same layout.
    dk = a g v, dv = a g^T k, d_rho = <g, s>, d_a = k.g v.
    """

    def emit(context, builder, signature, args):
        e = Emitter(context, builder, signature, args, dim.literal_value)
        grad, before, key, val, query, dout = (e.pointer(n) for n in (1, 3, 5, 7, 9, 11))
        out_k, out_v, out_rho, out_a = (e.pointer(n) for n in (13, 15, 17, 19))
        rho, weight = e.splat(args[21]), e.splat(args[22])
        q_t, v_t = e.load(query), e.load(val)
        g_k, products, inner = e.accumulators(), [], e.accumulators()
        for i in range(e.lanes):
            x = e.fma(e.splat(e.load_scalar(dout, i)), q_t, e.mul(rho, e.load(grad, i)))
            e.store(x, grad, i)
            n = i % len(g_k)
            g_k[n] = e.fma(e.splat(e.load_scalar(key, i)), x, g_k[n])
            inner[n] = e.fma(x, e.load(before, i), inner[n])
            products.append(e.mul(x, v_t))
        g_v = e.row_sums(products)
        e.store(e.mul(weight, g_v), out_k)
        e.store(e.mul(weight, e.sum(g_k)), out_v)
        e.store_scalar(e.total(e.sum(inner)), out_rho)
        e.store_scalar(e.total(e.mul(e.load(key), g_v)), out_a)
        return context.get_dummy_value()

    arguments = (
        dim, g, g_at, s, s_at, k, k_at, v, v_at, q, q_at, dy, dy_at,
        dk, dk_at, dv, dv_at, d_rho, d_rho_at, d_a, d_a_at, decay, a,
    )  # fmt: skip
    return step_signature(arguments), emit


@vector_step
def reverse_mixed(
    typing, dim, g, g_at, s, s_at, k, k_at, v, v_at, q, q_at, dy, dy_at, d, d_at,
    dk, dk_at, dv, dv_at, dd, dd_at, d_rho, d_rho_at, d_abc, d_abc_at, decay, a, b, c,
):  # fmt: skip
    """As `reverse`, for a k v^T + b v k^T + c Diag(d):

    dk = a g v + b g^T v, dv = a g^T k + b g k, dd = c diag(g); d_a = k.g v, d_b = v.g k, d_c = d.diag(g).
    """

    def emit(context, builder, signature, args):
        e = Emitter(context, builder, signature, args, dim.literal_value)
        grad, before, key, val, query, dout, diag = (e.pointer(n) for n in (1, 3, 5, 7, 9, 11, 13))
        out_k, out_v, out_d, out_rho, out_abc = (e.pointer(n) for n in (15, 17, 19, 21, 23))
        rho, w_a, w_b, w_c = (e.splat(args[n]) for n in (25, 26, 27, 28))
        q_t, k_t, v_t = e.load(query), e.load(key), e.load(val)
        gt_k, gt_v, inner, diagonal = e.zero(), e.zero(), e.zero(), e.zero()
        with_v, with_k = [], []
        for i in range(e.lanes):
            x = e.fma(e.splat(e.load_scalar(dout, i)), q_t, e.mul(rho, e.load(grad, i)))
            e.store(x, grad, i)
            gt_k = e.fma(e.splat(e.load_scalar(key, i)), x, gt_k)
            gt_v = e.fma(e.splat(e.load_scalar(val, i)), x, gt_v)
            inner = e.fma(x, e.load(before, i), inner)
            diagonal = e.keep_lane(i, x, diagonal)
            with_v.append(e.mul(x, v_t))
            with_k.append(e.mul(x, k_t))
        g_v, g_k = e.row_sums(with_v), e.row_sums(with_k)
        e.store(e.fma(w_a, g_v, e.mul(w_b, gt_v)), out_k)
        e.store(e.fma(w_a, gt_k, e.mul(w_b, g_k)), out_v)
        e.store(e.mul(w_c, diagonal), out_d)
        e.store_scalar(e.total(inner), out_rho)
        e.store_scalar(e.total(e.mul(k_t, g_v)), out_abc, 0)
        e.store_scalar(e.total(e.mul(v_t, g_k)), out_abc, 1)
        e.store_scalar(e.total(e.mul(e.load(diag), diagonal)), out_abc, 2)
        return context.get_dummy_value()

    arguments = (
        dim, g, g_at, s, s_at, k, k_at, v, v_at, q, q_at, dy, dy_at, d, d_at,
        dk, dk_at, dv, dv_at, dd, dd_at, d_rho, d_rho_at, d_abc, d_abc_at, decay, a, b, c,
    )  # fmt: skip
    return step_signature(arguments), emit

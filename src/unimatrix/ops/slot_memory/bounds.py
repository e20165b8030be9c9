"""Few of many slots without a look at each: upper bounds of whole groups of slots, for a chunk of positions.

Imported only when a kernel runs. At a chunk's beginning the products of its keys and queries with all slots
are taken at once, in float32 and with a margin for its rounding, and the largest of every `EIGHT` slots is
kept. A position then looks, in float64, only into groups whose bound reaches what it has already found: it
finds the same slots as if it had looked at all. A slot written within the chunk raises its group's bounds;
what was there before leaves them too high, which costs a look and changes nothing.

Letters: N slots, E width of keys and queries, C positions of a chunk, L lanes: C keys, then C queries where
slots are read too; s a slot, g a group, c a lane.
"""

import math
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from unimatrix.ops.rows import FAST, bare
from unimatrix.ops.slot_memory.held import NOT_HELD, USED, free_slot, nearest, norm_of, write_key

CHUNK = 32  # positions
EIGHT = 8  # slots of a group
SPAN = 16  # groups of a span
LANES = 16  # numbers of a vector
LINE = 64  # bytes of a cache line
FLAGS = ("contract",)  # a product and a sum may become one rounding
PAYS_FROM = 256  # slots; fewer are looked at one by one
PAYS_FOR = 4  # positions of a chunk
# float32's rounding error is at most 2^-24 of a number. A product of E rounded factors, summed in any order
# and once scaled and shifted, is off by at most E + 6 of them; this is more than twice that.
UNIT = 2.0**-23
SMALL = 1e-30  # more than all that float32 loses to underflow, for numbers up to LARGE
LEAST, LARGE = 1e-100, 1e10  # norms for which these bounds hold: squares neither vanish nor overflow
# places in `flags`
GROUPS = 0  # how many groups are bounded in this chunk, 0 for none
MADE = 1  # whether units, sizes and offsets are those of the slots
NEVER = 2  # whether it does not pay, or a slot holds a key for which bounds do not hold
LOOK = 3  # how many queries were answered


class Bounds(NamedTuple):
    """Of a row: the slots in float32, the positions of its chunk, and a bound for every group and position.

    All are `bare`.
    """

    units: Any  # [N', E'] keys of norm 1, 0 where nothing is held; N' and E' are multiples of EIGHT and 4
    sizes: Any  # [N'] norms of the keys
    offsets: Any  # [N'] at least the log strengths; -inf where nothing is held
    lanes: Any  # [E', L] keys of norm 1, then queries over sqrt(E)
    margins: Any  # [L] how far a product of a lane and a unit may be off
    most: Any  # [N' / EIGHT, L] at least the largest cosine, and score, of each group
    tops: Any  # [N' / EIGHT / SPAN, L] those of each span
    seen: Any  # [N' / EIGHT] the last query that looked into the group
    plain: Any  # [2, 4] sizes and offsets of four cosines: 1 and 0
    norms: Any  # [L] of the chunk's keys and queries, float64
    flags: Any  # [4] int64


@numba.njit
def is_tame(norm):
    """Whether bounds hold for it; not for NaN."""
    return norm == 0.0 or LEAST < norm < LARGE


@numba.njit
def room_for_bounds(held, length, reads):
    """For so many positions, without `reads` for keys alone; and what owns it."""
    slots, width = held.keys.shape
    pays = slots >= PAYS_FROM and length >= PAYS_FOR
    rows, columns = -(-slots // EIGHT) * EIGHT if pays else 0, -(-width // 4) * 4
    lanes = 2 * CHUNK if reads else CHUNK
    units, sizes, offsets = _table(rows, columns), np.zeros(rows, np.float32), np.zeros(rows, np.float32)
    lane, margins, most = _table(columns, lanes), np.zeros(lanes, np.float32), _table(rows // EIGHT, lanes)
    groups = rows // EIGHT
    tops, seen = _table(-(-groups // SPAN), lanes), np.zeros(groups, np.int64)
    plain, norms, flags = np.zeros((2, 4), np.float32), np.zeros(lanes), np.zeros(4, np.int64)
    plain[0] = 1.0
    bounds = Bounds(
        bare(units), bare(sizes), bare(offsets), bare(lane), bare(margins), bare(most), bare(tops),
        bare(seen), bare(plain), bare(norms), bare(flags),
    )  # fmt: skip
    renew(bounds, held)
    return bounds, (units, sizes, offsets, lane, margins, most, tops, seen, plain, norms, flags)


@numba.njit
def renew(bounds, held):
    """The slots are others than before."""
    bounds.flags[MADE], bounds.flags[NEVER] = 0, bounds.sizes.shape[0] == 0
    for s in range(held.counts[USED]):
        if held.stamps[s] != NOT_HELD and not is_tame(held.norms[s]):
            bounds.flags[NEVER] = 1


@numba.njit(error_model="numpy")
def set_slot(bounds, held, logs, s):
    """What is known of slot s is what it holds now."""
    norm, units, keys = held.norms[s], bounds.units, held.keys
    if held.stamps[s] == NOT_HELD:
        units[s] = np.float32(0.0)
        bounds.sizes[s], bounds.offsets[s] = 0.0, -np.inf
        return
    factor = 1.0 / norm if norm > 0.0 else 0.0
    for e in range(keys.shape[1]):
        units[s, e] = keys[s, e] * factor
    bounds.sizes[s] = norm
    # a score that is NaN comes first: its bound is the largest
    offset = np.inf if math.isnan(logs[s]) else logs[s]
    bounds.offsets[s] = offset + abs(offset) * 4 * UNIT + SMALL if offset > -np.inf else -np.inf


@intrinsic
def _raise(typing: Any, units: Any, columns: Any, lanes: Any, lane_count: Any, affine: Any, most: Any) -> Any:
    """Bounds of CHUNK lanes raised to those of four slots; by addresses, but for the two counts.

    affine: of the margins, the sizes, the offsets; most: of the bounds of the slots' group. The sums stay in
    registers, which LLVM does not manage by itself.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word, number = ir.IntType(64), ir.FloatType()
        vector = ir.VectorType(number, LANES)
        units, columns, lanes, lane_count, affine, most = args
        margins, sizes, offsets = (builder.extract_value(affine, i) for i in range(3))
        wide = range(0, CHUNK, LANES)

        def place(start: Any, at: Any, kind: Any) -> Any:
            bytes_behind = builder.mul(at, word(4)) if isinstance(at, ir.Value) else word(4 * at)
            return builder.inttoptr(builder.add(start, bytes_behind), kind.as_pointer())

        def load(start: Any, at: Any) -> Any:
            return builder.load(place(start, at, vector), align=4)

        def spread(start: Any, at: Any) -> Any:
            one = builder.insert_element(
                vector(ir.Undefined), builder.load(place(start, at, number)), word(0)
            )
            return builder.shuffle_vector(
                one, vector(ir.Undefined), ir.VectorType(ir.IntType(32), LANES)(None)
            )

        zero = vector([number(0.0)] * LANES)
        sums = [[cgutils.alloca_once(builder, vector) for _ in wide] for _ in range(4)]
        for totals in sums:
            for total in totals:
                builder.store(zero, total)
        with cgutils.for_range(builder, columns) as loop:
            row = builder.mul(loop.index, lane_count)
            lane = [load(lanes, builder.add(row, word(c))) for c in wide]
            for i, totals in enumerate(sums):
                unit = spread(units, builder.add(builder.mul(columns, word(i)), loop.index))
                for x, total in zip(lane, totals, strict=True):
                    product = builder.fmul(x, unit, flags=FLAGS)
                    builder.store(builder.fadd(builder.load(total), product, flags=FLAGS), total)
        for v, c in enumerate(wide):
            bound, margin = load(most, c), load(margins, c)
            for i, totals in enumerate(sums):
                product = builder.fmul(
                    builder.fadd(builder.load(totals[v]), margin, flags=FLAGS), spread(sizes, i), flags=FLAGS
                )
                raised = builder.fadd(product, spread(offsets, i), flags=FLAGS)
                bound = builder.select(builder.fcmp_ordered(">", raised, bound), raised, bound)
            builder.store(bound, place(most, c, vector), align=4)
        return context.get_dummy_value()

    address = types.int64
    counts = (address, address, address, address)
    return types.void(*counts, types.UniTuple(address, 3), address), emit


@numba.njit
def raise_four(bounds, s):
    """Their group's bounds are at least those of the four slots from s on, a multiple of 4."""
    columns, lanes = bounds.lanes.shape
    units = bounds.units.ctypes.data + 4 * s * columns
    most = bounds.most.ctypes.data + 4 * (s // EIGHT) * lanes
    margins, first, plain = bounds.margins.ctypes.data, bounds.lanes.ctypes.data, bounds.plain.ctypes.data
    _raise(units, columns, first, lanes, (margins, plain, plain + 16), most)  # pyright: ignore[reportCallIssue]
    if lanes > CHUNK:
        far = 4 * CHUNK
        sizes, offsets = bounds.sizes.ctypes.data + 4 * s, bounds.offsets.ctypes.data + 4 * s
        affine = (margins + far, sizes, offsets)
        _raise(units, columns, first + far, lanes, affine, most + far)  # pyright: ignore[reportCallIssue]


@numba.njit(fastmath=FAST)
def _raise_span(most, tops, g):
    """The bounds of its span are at least those of group g."""
    for c in range(most.shape[1]):
        bound, top = most[g, c], tops[g // SPAN, c]
        tops[g // SPAN, c] = bound if bound > top else top


@numba.njit
def _table(rows, columns):
    """Zeros whose rows, if they are whole cache lines, are so in memory."""
    room = np.zeros(rows * columns + LINE // 4, np.float32)
    first = -room.ctypes.data % LINE // 4
    return room[first : first + rows * columns].reshape(rows, columns)


@numba.njit(fastmath=FAST, error_model="numpy")
def _set_lane(bounds, c, vector, norm, length):
    """Lane c is `vector`, whose norm this is, made `length` long."""
    if not is_tame(norm):
        length = 0.0
    factor, lanes = length / norm if norm > 0.0 else 0.0, bounds.lanes
    for e in range(vector.shape[0]):
        lanes[e, c] = vector[e] * factor
    bounds.margins[c] = length * (vector.shape[0] + 8) * UNIT


@numba.njit
def begin_chunk(bounds, held, logs, keys, queries):
    """Bounds for the positions of a chunk, if they pay: keys and queries [up to C, E]."""
    count, width = keys.shape
    norms, flags, used = bounds.norms, bounds.flags, held.counts[USED]
    for c in range(count):
        norms[c] = norm_of(keys[c])
    flags[GROUPS] = 0
    if flags[NEVER] or used < PAYS_FROM or count < PAYS_FOR:
        return
    if not flags[MADE]:
        for s in range(held.stamps.shape[0]):
            set_slot(bounds, held, logs, s)
        flags[MADE] = 1
    for c in range(count):
        _set_lane(bounds, c, keys[c], norms[c], 1.0)
        if norms.shape[0] > CHUNK:
            norms[CHUNK + c] = norm = norm_of(queries[c])
            _set_lane(bounds, CHUNK + c, queries[c], norm, norm / math.sqrt(width))
    # whatever is written within the chunk: an empty slot that is filled is among the next ones
    flags[GROUPS] = (min(used + count, held.stamps.shape[0]) + EIGHT - 1) // EIGHT
    bounds.most[: flags[GROUPS]] = np.float32(-np.inf)
    bounds.tops[:] = np.float32(-np.inf)
    for s in range(0, flags[GROUPS] * EIGHT, 4):
        raise_four(bounds, s)
    for g in range(flags[GROUPS]):
        _raise_span(bounds.most, bounds.tops, g)


@numba.njit
def groups_for(bounds, c):
    """How many groups are bounded for lane c."""
    return bounds.flags[GROUPS] if not bounds.flags[NEVER] and is_tame(bounds.norms[c]) else 0


@numba.njit
def find_slot(bounds, held, c, key, match_threshold):
    """The slot that the key of lane c is written to: see reference.choose_slot."""
    groups, used, norm = groups_for(bounds, c), held.counts[USED], bounds.norms[c]
    if groups == 0:
        best, _ = nearest(held, key, norm, -1, match_threshold, 0, used)
    else:
        best, most, tops, largest = -1, bounds.most, bounds.tops, match_threshold
        for span in range(0, groups, SPAN):
            if tops[span // SPAN, c] > largest:
                for g in range(span, min(span + SPAN, groups)):
                    if most[g, c] > largest:
                        stop = min(g * EIGHT + EIGHT, used)
                        best, largest = nearest(held, key, norm, best, largest, g * EIGHT, stop)
    return best if best >= 0 else free_slot(held)


@numba.njit
def write_slot(bounds, held, logs, s, c, key, clock):
    """Slot s holds the key of lane c from the real position `clock` on; logs[s] is that of its strength."""
    write_key(held, s, key, bounds.norms[c], clock)
    if not is_tame(bounds.norms[c]):
        bounds.flags[NEVER] = 1
    elif bounds.flags[MADE]:
        set_slot(bounds, held, logs, s)
        if bounds.flags[GROUPS] > 0:
            raise_four(bounds, s // 4 * 4)
            _raise_span(bounds.most, bounds.tops, s // EIGHT)

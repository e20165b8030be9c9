"""What a token of the triple latent needs beside a step of the matrix state, as vector instructions.

Letters: as in unimatrix.ops.triple_latent; z = P_t^T q_l before it is multiplied by q_r, g = dLoss/ds. Every
tensor argument is two, as in unimatrix.ops.matrix_state.steps: an array or an address, and an offset.
"""

from unimatrix.ops.matrix_state.steps import Emitter, step_signature, vector_step


@vector_step
def gate_and_retain(typing, dim, s, s_at, z, z_at, q_r, q_r_at, y, y_at, a, a_at, keep, write):
    """y = z * q_r, then s = keep s + write a."""

    def emit(context, builder, signature, args):
        e = Emitter(context, builder, signature, args, dim.literal_value)
        total, read, gate, out, new = (e.pointer(n) for n in (1, 3, 5, 7, 9))
        e.store(e.mul(e.load(read), e.load(gate)), out)
        weighted = e.mul(e.splat(args[12]), e.load(new))
        e.store(e.fma(e.splat(args[11]), e.load(total), weighted), total)
        return context.get_dummy_value()

    return step_signature((dim, s, s_at, z, z_at, q_r, q_r_at, y, y_at, a, a_at, keep, write)), emit


@vector_step
def reverse_gate(typing, dim, dz, dz_at, dy, dy_at, q_r, q_r_at, z, z_at, dq_r, dq_r_at):
    """dz = dy * q_r, dq_r = dy * z."""

    def emit(context, builder, signature, args):
        e = Emitter(context, builder, signature, args, dim.literal_value)
        grad_z, grad_y, gate, read, grad_gate = (e.pointer(n) for n in (1, 3, 5, 7, 9))
        dout = e.load(grad_y)
        e.store(e.mul(dout, e.load(gate)), grad_z)
        e.store(e.mul(dout, e.load(read)), grad_gate)
        return context.get_dummy_value()

    return step_signature((dim, dz, dz_at, dy, dy_at, q_r, q_r_at, z, z_at, dq_r, dq_r_at)), emit


@vector_step
def reverse_retain(
    typing, dim, g, g_at, s, s_at, a, a_at, ds, ds_at, da, da_at,
    d_keep, d_keep_at, d_write, d_write_at, keep, write,
):  # fmt: skip
    """da = write g, d_keep = g.s, d_write = g.a, then g = keep g + ds; s is s_{t-1}, ds what else it gets."""

    def emit(context, builder, signature, args):
        e = Emitter(context, builder, signature, args, dim.literal_value)
        grad, before, new, more, out, out_keep, out_write = (e.pointer(n) for n in (1, 3, 5, 7, 9, 11, 13))
        x = e.load(grad)
        e.store(e.mul(e.splat(args[16]), x), out)
        e.store_scalar(e.total(e.mul(x, e.load(before))), out_keep)
        e.store_scalar(e.total(e.mul(x, e.load(new))), out_write)
        e.store(e.fma(e.splat(args[15]), x, e.load(more)), grad)
        return context.get_dummy_value()

    arguments = (
        dim, g, g_at, s, s_at, a, a_at, ds, ds_at, da, da_at,
        d_keep, d_keep_at, d_write, d_write_at, keep, write,
    )  # fmt: skip
    return step_signature(arguments), emit

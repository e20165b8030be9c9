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


@vector_step
def match(typing, dim, rows, e, e_at, x, x_at, scores, scores_at):
    """scores_m = E_m . x for each of `rows` addresses."""

    def emit(context, builder, signature, args):
        em = Emitter(context, builder, signature, args, dim.literal_value)
        addresses, vector, out = (em.pointer(n) for n in (2, 4, 6))
        value = em.load(vector)
        for m in range(rows.literal_value):
            em.store_scalar(em.total(em.mul(em.load(addresses, m), value)), out, m)
        return context.get_dummy_value()

    return step_signature((dim, rows, e, e_at, x, x_at, scores, scores_at)), emit


@vector_step
def write_slots_and_read(
    typing, dim, rows, p, from_at, to_at, b, b_at, alpha, alpha_at, beta, beta_at, z, z_at, keep, write
):
    """P_m = keep P_m + write alpha_m b, z = sum of beta_m P_m; reads P at from_at and writes it at to_at."""

    def emit(context, builder, signature, args):
        e = Emitter(context, builder, signature, args, dim.literal_value)
        old, new = e.pointer(2), e.pointer(2, offset=4)
        token, writes, reads, out = (e.pointer(n) for n in (5, 7, 9, 11))
        decay, weighted = e.splat(args[13]), e.mul(e.splat(args[14]), e.load(token))
        total = e.zero()
        for m in range(rows.literal_value):
            row = e.fma(e.splat(e.load_scalar(writes, m)), weighted, e.mul(decay, e.load(old, m)))
            e.store(row, new, m)
            total = e.fma(e.splat(e.load_scalar(reads, m)), row, total)
        e.store(total, out)
        return context.get_dummy_value()

    arguments = (
        dim, rows, p, from_at, to_at, b, b_at, alpha, alpha_at, beta, beta_at, z, z_at, keep, write,
    )  # fmt: skip
    return step_signature(arguments), emit


@vector_step
def reverse_slots(
    typing, dim, rows, g, g_at, p, before_at, after_at, b, b_at, dz, dz_at,
    alpha, alpha_at, beta, beta_at, d_alpha, d_alpha_at, d_beta, d_beta_at,
    db, db_at, d_keep, d_keep_at, d_write, d_write_at, decay, write,
):  # fmt: skip
    """g_m = decay g_m + beta_m dz, then what this token's b, weights and gates get from it.

    d_beta_m = P_m.dz (after the write), d_alpha_m = write g_m.b, db = write sum of alpha_m g_m,
    d_keep = sum of g_m.P_m (before the write), d_write = sum of alpha_m g_m.b.
    """

    def emit(context, builder, signature, args):
        e = Emitter(context, builder, signature, args, dim.literal_value)
        grad, old, new = e.pointer(2), e.pointer(4), e.pointer(4, offset=6)
        token, dout, writes, reads, out_a, out_b, out_token, out_keep, out_write = (
            e.pointer(n) for n in (7, 9, 11, 13, 15, 17, 19, 21, 23)
        )
        fade, strength = e.splat(args[25]), e.splat(args[26])
        value, grad_z = e.load(token), e.load(dout)
        weighted, inner = e.zero(), e.zero()
        for m in range(rows.literal_value):
            x = e.fma(e.splat(e.load_scalar(reads, m)), grad_z, e.mul(fade, e.load(grad, m)))
            e.store(x, grad, m)
            e.store_scalar(e.total(e.mul(e.load(new, m), grad_z)), out_b, m)
            along = e.total(e.mul(x, value))
            e.store_scalar(builder.fmul(args[26], along), out_a, m)
            weighted = e.fma(e.splat(e.load_scalar(writes, m)), x, weighted)
            inner = e.fma(x, e.load(old, m), inner)
        e.store(e.mul(strength, weighted), out_token)
        e.store_scalar(e.total(inner), out_keep)
        e.store_scalar(e.total(e.mul(weighted, value)), out_write)
        return context.get_dummy_value()

    arguments = (
        dim, rows, g, g_at, p, before_at, after_at, b, b_at, dz, dz_at,
        alpha, alpha_at, beta, beta_at, d_alpha, d_alpha_at, d_beta, d_beta_at,
        db, db_at, d_keep, d_keep_at, d_write, d_write_at, decay, write,
    )  # fmt: skip
    return step_signature(arguments), emit


@vector_step
def reverse_match(typing, dim, rows, e, e_at, x, x_at, d_scores, d_scores_at, d_e, d_e_at, dx, dx_at):
    """dx = sum of d_scores_m E_m, and d_e_m grows by d_scores_m x."""

    def emit(context, builder, signature, args):
        em = Emitter(context, builder, signature, args, dim.literal_value)
        addresses, vector, scores, grad, out = (em.pointer(n) for n in (2, 4, 6, 8, 10))
        value, total = em.load(vector), em.zero()
        for m in range(rows.literal_value):
            weight = em.splat(em.load_scalar(scores, m))
            total = em.fma(weight, em.load(addresses, m), total)
            em.store(em.fma(weight, value, em.load(grad, m)), grad, m)
        em.store(total, out)
        return context.get_dummy_value()

    return step_signature((dim, rows, e, e_at, x, x_at, d_scores, d_scores_at, d_e, d_e_at, dx, dx_at)), emit

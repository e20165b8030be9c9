"""A bounded store of tokens that are worth keeping, read by exact attention; a policy decides who is kept.

`reference` is the definition, `compiled` a CPU loop that decides and reads in one pass, `chunked` decides on
the CPU and reads many positions at once on any device. All agree in outputs, state and every gradient
(tests/ops/test_surprise_store.py).
"""

from types import NoneType
from typing import get_args

import torch
from torch import Tensor

from unimatrix.errors import UserError, UserTypeError, shown
from unimatrix.ops.backend import Backend, BackendChoice, choose_backend, loops_problem
from unimatrix.ops.internals import transforming, watched
from unimatrix.ops.shapes import (
    TokenIds,
    TokenMask,
    accumulation_dtype,
    check_count,
    check_first,
    check_like,
    check_other,
    check_positions,
    check_range,
    check_tuple,
    harmless,
    without_autocast,
)
from unimatrix.ops.surprise_store.chunked import decisions_problem, surprise_store_chunked
from unimatrix.ops.surprise_store.compiled import surprise_store_compiled
from unimatrix.ops.surprise_store.reference import surprise_store_reference
from unimatrix.ops.surprise_store.state import (
    CALIBRATED,
    EMPTY,
    MOST_KEPT,
    Offers,
    Policy,
    Rules,
    StoreReads,
    SurpriseStoreState,
    empty_state,
    first_mixed,
    in_steps,
)

__all__ = ["EMPTY", "Policy", "StoreReads", "SurpriseStoreState", "empty_state", "surprise_store"]

CHUNK_LEN = 32  # queries that are read at once in the chunked form


def surprise_store(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_ids: TokenIds,
    surprise: Tensor,
    *,
    budget: int = 64,
    policy: Policy = "surprise",
    rate: float | None = None,
    window: int = 256,
    top_k: int | None = None,
    seed: int = 0,
    allowed: TokenMask | None = None,
    state: SurpriseStoreState | None = None,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
    chunk_len: int | None = None,
    backend: Backend | BackendChoice = "auto",
) -> tuple[StoreReads, SurpriseStoreState]:
    """Keep at most `budget` of the tokens, by how surprising they were, and read them with a query.

    The criterion is this project's own. Each position is first stored or not, then reads. While there is room
    every token is stored. Then it depends on the policy which one comes in, and which one goes for it:

        surprise           whose surprise is among the largest r of its own and the `window` before it (a
                           running quantile); the least surprising one goes, which may be itself
        surprise-oldest    the same; the oldest one goes
        always             every one; the oldest goes: first in, first out
        random             r in as many as that, whatever they are, or a share `rate`; the oldest goes
        reservoir          so that every token of the text is held with the same probability

    r is calibrated to the budget: N for each n tokens, n those so far, this one included. Or it is `rate` for
    each one. It is rounded up to a whole number, so at least 1: calibrated, a store in which the oldest goes
    reaches back in proportion to the text, at most (R + 1) N tokens or so. While the text fits in the window,
    and all of it may be stored, policy surprise then holds the N most surprising tokens.

        beta_n = query_t . K_n / sqrt(E);  w = softmax(beta) over what is held;  context_t = sum_n w_n V_n

    With top_k the entries of the largest beta are read, one after the other: each time the lowest of those
    whose beta is within 2^-12 of |query_t| max_n |K_n| / sqrt(E), the most that it can be, of the largest one
    left. Equal keys, as those of one token are, so have equal scores however they were rounded (in float32;
    keys that were themselves rounded to 16 bits differ by more), and in every form the same ones are read.

    Surprises are compared in steps of 1/1024 up to 1024, as what is equal but for rounding must not decide.
    One that is not above the r largest before it does not come in; of equal ones that are held the older one
    goes. What is random depends on the seed and on the text up to the token, and on nothing else: a text in
    pieces is decided as the whole.

    Args:
        query, key: [B, T, E]; value: [B, T, W]; any float dtype; float64 beside a narrower query is refused
            here and in every argument.
        token_ids: [B, T] int64, >= 0, the ids stored with the values.
        surprise: [B, T], >= 0; it decides, and gets no gradient. Only the surprise policies look at it.
        budget: N, entries at most, up to 2^24. rate: in (0, 1]; None is calibrated to the budget. window: R,
            how many earlier surprises are kept to compare a new one with, up to 2^24.
        top_k: entries that a query reads, at most N; None is all.
        seed: of the random policies.
        allowed: [B, T] bool; a False position is a token that reads, and is never stored.
        state: the store before the first position; None is an empty one. Never modified.
        mask: [B, T] bool; a False position is no token: it stores nothing, counts for nothing, reads zeros.
        starts: [B, T] bool; at a True position, a masked one too, the state is emptied before anything is
            stored, so that a text begins there: it is as if each text had been given alone.
        chunk_len: C, queries at once in the chunked form; None is the default. No effect on the result.
        backend: "auto" takes the compiled form on a CPU, the chunked form elsewhere.

    Returns:
        reads: context [B, T, W] in value's dtype; weights [B, T, K] in the accumulation dtype and token_ids
            [B, T, K], K = N, or top_k as they are chosen one after the other. The state after the last
            position.

    Raises:
        UserError: shapes, dtypes or devices disagree, a negative surprise or token id (on a CPU), a setting
            out of range, a backend that is unknown or cannot run here.

    Numerics: float32, or float64 for float64 inputs. Compiled, a weight below e^-46 is 0, which shows where
    values differ by a factor of 1e20. Differentiable, as often as one likes, in query, key,
    value and the state's keys and values; the decisions (who is stored, which TopK) carry no gradient.
    """
    _check(query, key, value, token_ids, surprise, allowed, mask, starts)
    rules = _rules(budget, policy, rate, top_k, seed)
    check_count("window", window, MOST_KEPT)
    dtype = accumulation_dtype(query.dtype)
    if state is None:
        widths = (budget, query.shape[-1], value.shape[-1])
        state = empty_state(len(query), *widths, window=window, seed=seed, dtype=dtype, device=query.device)
    else:
        _check_state(state, budget, window, query, value)
        if query.shape[1] == 0:
            state = SurpriseStoreState(*(x.clone() for x in state))  # what is returned is the caller's own
        state = state._replace(keys=state.keys.to(dtype), values=state.values.to(dtype))
    if chunk_len is not None:
        check_count("chunk_len", chunk_len)
    problem, undecided = loops_problem(query), decisions_problem()
    form = choose_backend(
        "surprise_store",
        backend,
        preferred="compiled" if problem is None else "chunked" if undecided is None else "reference",
        problems={"compiled": problem, "chunked": undecided},
    )
    values = value.dtype
    query, key, value = (harmless(mask, x.to(dtype)) for x in (query, key, value))
    surprise = harmless(mask, surprise)
    check_range("surprise", surprise, 0.0, float("inf"))
    offers = Offers(
        *(query, key, value, token_ids),
        *(in_steps(surprise), mask, allowed, starts),
    )
    with without_autocast(query.device):
        if form == "compiled":
            reads, last = surprise_store_compiled(offers, state, rules)
        elif form == "reference" or query.shape[1] == 0:
            reads, last = surprise_store_reference(offers, state, rules)
        else:
            chunk = min(CHUNK_LEN if chunk_len is None else chunk_len, query.shape[1])
            reads, last = surprise_store_chunked(offers, state, rules, chunk)
    return StoreReads(reads.context.to(values), reads.weights, reads.token_ids), last


def _rules(budget: int, policy: Policy, rate: float | None, top_k: int | None, seed: int) -> Rules:
    check_count("budget", budget, MOST_KEPT)
    if not isinstance(policy, str) or policy not in get_args(Policy):
        raise UserError(f"policy: expected one of {', '.join(get_args(Policy))}, got {shown(policy)}")
    if isinstance(rate, bool) or not isinstance(rate, (int, float, NoneType)):
        raise UserTypeError(f"rate: expected a number or None, got {shown(rate)}")
    if rate is not None and not 0.0 < rate <= 1.0:
        raise UserError(f"rate: expected above 0 and at most 1, got {rate}")
    if top_k is not None:
        check_count("top_k", top_k, budget, limit="budget")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UserTypeError(f"seed: expected a whole number, got {shown(seed)}")
    if not 0 <= seed < 2**63:
        raise UserError(f"seed: expected at least 0 and below 2^63, got {shown(seed)}")
    share = CALIBRATED if rate is None else float(rate)
    return Rules(budget, top_k or budget, policy, share, first_mixed(seed))


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_ids: TokenIds,
    surprise: Tensor,
    allowed: TokenMask | None,
    mask: TokenMask | None,
    starts: TokenMask | None,
) -> None:
    check_first("query", query, "batch, time, width")
    batch, length, width = query.shape
    check_like("key", key, (batch, length, width), query)
    check_first("value", value, "batch, time, width")
    check_like("value", value, (batch, length, value.shape[-1]), query)
    check_other("token_ids", token_ids, torch.int64, (batch, length), query)
    check_like("surprise", surprise, (batch, length), query)
    if allowed is not None:
        check_other("allowed", allowed, torch.bool, (batch, length), query)
    # off the CPU, and in a compiled graph, a look at the values would cost a synchronisation
    looks = token_ids.device.type == "cpu" and token_ids.numel() and not watched(token_ids)
    if looks and not transforming() and (low := int(token_ids.min())) < 0:
        raise UserError(f"token_ids: expected ids from 0 on, got {low}")
    check_positions(mask, starts, (batch, length), query)


def _check_state(state: SurpriseStoreState, budget: int, window: int, query: Tensor, value: Tensor) -> None:
    check_tuple("state", state, SurpriseStoreState)
    batch = len(query)
    check_like("state.keys", state.keys, (batch, budget, query.shape[-1]), query)
    check_like("state.values", state.values, (batch, budget, value.shape[-1]), query)
    shapes = {"token_ids": (budget,), "priorities": (budget,), "recent": (window,), "seen": (), "mixed": ()}
    for name, shape in shapes.items():
        check_other(f"state.{name}", getattr(state, name), torch.int64, (batch, *shape), query)

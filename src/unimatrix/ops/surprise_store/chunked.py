"""The surprise store for any device: decisions in a compiled loop on the CPU, the reads of chunks at once.

Who is stored and who goes depends on surprises, ids and a count alone, so it is decided before anything is
read: each token lives in the store for a while, or not at all. A query of a chunk reads at most N entries
that were there at the chunk's start and C that came within it, so time and memory are linear in T: (N + C)
entries a query. On an accelerator whole numbers travel to the CPU and back: one synchronisation a call.

Letters: B batch, T time, N entries, E width of keys and queries, W width of values, C chunk length, M chunks,
K entries read.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unimatrix.ops.backend import NUMBA_INSTALLED
from unimatrix.ops.internals import transforming
from unimatrix.ops.operator import LIBRARY
from unimatrix.ops.surprise_store.reference import largest_scores, softmax_over, top_entries
from unimatrix.ops.surprise_store.state import (
    EMPTY,
    POLICIES,
    Offers,
    Rules,
    StoreReads,
    SurpriseStoreState,
)
from unimatrix.ops.threads import threads_for


def decisions_problem() -> str | None:
    """Why numba's loop cannot decide; None if it can. It reads whole numbers, and no gradients."""
    if not NUMBA_INSTALLED:
        return "numba is not installed (pip install numba)"
    if not torch.compiler.is_compiling() and transforming():
        return "torch.func and forward-mode derivatives go through plain torch alone"
    return None


def surprise_store_chunked(
    offers: Offers, state: SurpriseStoreState, rules: Rules, chunk_len: int
) -> tuple[StoreReads, SurpriseStoreState]:
    """Arguments as in `surprise_store`, already checked; T > 0."""
    length, width = offers.query.shape[1:]
    empty = state.priorities == EMPTY  # whatever stands there, it holds nothing, and 0 times it may be NaN
    state = state._replace(
        keys=state.keys.masked_fill(empty[..., None], 0.0),
        values=state.values.masked_fill(empty[..., None], 0.0),
    )
    version, first, last, *deciding = torch.ops.unimatrix.surprise_store_decide(
        offers.levels,
        offers.token_ids,
        offers.real,
        offers.allowed,
        offers.starts,
        *state[3:],
        POLICIES.index(rules.policy),
        rules.rate,
        rules.start,
        chunk_len,
    )

    def chunks(x: Tensor) -> Tensor:
        """[B, T, ...] to [B, M, C, ...]; what fills up the last chunk is read and dropped."""
        padding = (0, 0) * (x.dim() - 2) + (0, -length % chunk_len)
        return F.pad(x, padding).unflatten(1, (-1, chunk_len))

    def candidates(held: Tensor, offered: Tensor) -> tuple[Tensor, Tensor]:
        """All that any entry ever is, and of each chunk what its entries may be: [B, M, N + C, ...]."""
        everything = torch.cat([held, offered], dim=1)
        before = _rows(everything, first.flatten(1)).unflatten(1, (-1, rules.budget))
        return everything, torch.cat([before, chunks(offered)], dim=2)

    all_keys, keys = candidates(state.keys, offers.key)
    all_values, values = candidates(state.values, offers.value)
    all_ids, ids = candidates(state.token_ids[..., None], offers.token_ids[..., None])
    version = chunks(version)
    held = version >= 0
    which = torch.where(held, version, -1 - version)  # [B, M, C, N], each candidate at most once
    every_score = chunks(offers.query) @ keys.mT / width**0.5  # [B, M, C, N + C]
    score = every_score.gather(-1, which)
    if rules.top_k < rules.budget:
        most = largest_scores(chunks(offers.query), keys).gather(-1, which)
        best = top_entries(score, held, most, rules.top_k)
        score, held, which = (x.gather(-1, best) for x in (score, held, which))
    weights = softmax_over(score, held)
    context = torch.zeros_like(every_score).scatter(-1, which, weights) @ values
    read_ids = ids[:, :, None, :, 0].expand_as(every_score).gather(-1, which).masked_fill(~held, EMPTY)
    reads = (x.flatten(1, 2)[:, :length] for x in (context, weights, read_ids))
    gone = (deciding[0] == EMPTY)[..., None]
    after = (_rows(x, last).masked_fill(gone, nothing) for x, nothing in (
        (all_keys, 0.0), (all_values, 0.0), (all_ids, EMPTY)))  # fmt: skip
    last_keys, last_values, last_ids = after
    return StoreReads(*reads), SurpriseStoreState(last_keys, last_values, last_ids[..., 0], *deciding)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x[b, index[b, n]]: [B, M, E] and [B, N] to [B, N, E]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def _decide(levels: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    from unimatrix.ops.surprise_store import kernels

    token_ids, real, allowed, starts, *given, policy, rate, start, chunk_len = arguments
    deciding = [kernels.copy(x) for x in given]
    decided = _rooms(levels, given[0], chunk_len, device="cpu")
    kernels.decide(
        threads_for(levels.numel() * (given[0].shape[1] + given[1].shape[1])),
        *[kernels.array(x if x is None else x.cpu()) for x in (levels, token_ids, real, allowed, starts)],
        policy,
        rate,
        start,
        chunk_len,
        *[x.numpy() for x in (*deciding, *decided)],
    )
    return tuple(x.to(levels.device) for x in (*decided, *deciding))


def _decided(levels: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *_, priorities, recent, seen, mixed, _policy, _rate, _start, chunk_len = arguments
    like = (priorities, recent, seen, mixed)
    return (
        *_rooms(levels, priorities, chunk_len, device=levels.device),
        *(x.new_empty(x.shape) for x in like),
    )


def _rooms(levels: Tensor, priorities: Tensor, chunk_len: int, *, device: Any) -> tuple[Tensor, ...]:
    """Room for version [B, T, N], first [B, M, N] and last [B, N]."""
    batch, length = levels.shape
    budget = priorities.shape[1]
    shapes = (
        (batch, length, budget),
        (batch, (length + chunk_len - 1) // chunk_len, budget),
        (batch, budget),
    )
    return tuple(torch.empty(shape, dtype=torch.int64, device=device) for shape in shapes)


# an operator, so that torch.compile keeps the reads around it in one graph
LIBRARY.define(
    "surprise_store_decide(Tensor levels, Tensor token_ids, Tensor? real, Tensor? allowed, Tensor? starts, "
    "Tensor priorities, Tensor recent, Tensor seen, Tensor mixed, int policy, float rate, int start, "
    "int chunk_len) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
LIBRARY.impl("surprise_store_decide", _decide, "CompositeExplicitAutograd")
torch.library.register_fake("unimatrix::surprise_store_decide", _decided, lib=LIBRARY)

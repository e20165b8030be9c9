"""The surprise store, token by token: the definition that every other form is held to.

Letters: B batch, T time, N entries, E width of keys and queries, W width of values, K entries read.
"""

import torch
from torch import Tensor

from unimatrix.ops.surprise_store.state import (
    BY_SURPRISE,
    CALIBRATED,
    DRAW_BITS,
    EMPTY,
    SEEN_BITS,
    TIE,
    Offers,
    Rules,
    StoreReads,
    SurpriseStoreState,
    emptied,
    mix,
)


def surprise_store_reference(
    offers: Offers, state: SurpriseStoreState, rules: Rules
) -> tuple[StoreReads, SurpriseStoreState]:
    """Store, then read, for one position after the other; autograd goes through all but the decisions."""
    empty = state.priorities == EMPTY  # whatever stands there, it holds nothing
    state = state._replace(
        keys=state.keys.masked_fill(empty[..., None], 0.0),
        values=state.values.masked_fill(empty[..., None], 0.0),
        token_ids=state.token_ids.masked_fill(empty, EMPTY),
    )
    reads = []
    for t in range(offers.query.shape[1]):
        real = None if offers.real is None else offers.real[:, t]
        if offers.starts is not None:
            state = emptied(state, offers.starts[:, t, None], rules.start)
        state = _store(offers, t, real, state, rules)
        reads.append(_read(offers.query[:, t], real, state, rules))
    if not reads:
        batch, _, width = offers.value.shape
        nothing = offers.value.new_zeros(batch, 0, rules.top_k)
        return StoreReads(offers.value.new_zeros(batch, 0, width), nothing, nothing.long()), state
    context, weights, token_ids = (torch.stack(parts, dim=1) for parts in zip(*reads, strict=True))
    return StoreReads(context, weights, token_ids), state


def _store(
    offers: Offers, t: int, real: Tensor | None, state: SurpriseStoreState, rules: Rules
) -> SurpriseStoreState:
    level, token_ids = offers.levels[:, t], offers.token_ids[:, t]
    real = torch.ones_like(token_ids, dtype=torch.bool) if real is None else real
    allowed = real if offers.allowed is None else real & offers.allowed[:, t]
    mixed = mix(state.mixed, token_ids)
    entry, written, priority = decide(level, mixed, allowed, state, rules)
    here = (entry[:, None] == torch.arange(rules.budget, device=entry.device)) & written[:, None]  # [B, N]
    window = state.recent.shape[1]
    newest = (state.seen % window)[:, None] == torch.arange(window, device=entry.device)
    return SurpriseStoreState(
        keys=torch.where(here[..., None], offers.key[:, t, None], state.keys),
        values=torch.where(here[..., None], offers.value[:, t, None], state.values),
        token_ids=torch.where(here, token_ids[:, None], state.token_ids),
        priorities=torch.where(here, priority[:, None], state.priorities),
        recent=torch.where(newest & real[:, None], level[:, None], state.recent),
        seen=state.seen + real,
        mixed=torch.where(real, mixed, state.mixed),
    )


def decide(
    level: Tensor, mixed: Tensor, allowed: Tensor, state: SurpriseStoreState, rules: Rules
) -> tuple[Tensor, Tensor, Tensor]:
    """The entry that a token would take, whether it does, and with what priority; all [B]."""
    held = state.priorities != EMPTY
    full = held.all(-1)
    draw = (mixed >> (64 - DRAW_BITS)) & (2**DRAW_BITS - 1)
    admitted, priority = torch.ones_like(full), state.seen
    compared = state.seen.clamp_max(state.recent.shape[1]) + 1  # itself, and the newest before it
    if rules.rate == CALIBRATED:
        before = state.seen.clamp_min(0)  # a state from a file may say anything
        ranks = (rules.budget * compared + before) // (before + 1)  # rounded up
    else:
        ranks = (rules.rate * compared.double()).ceil().long()
    if rules.policy in BY_SURPRISE:
        above = ((state.recent >= level[:, None]) & (state.recent != EMPTY)).sum(-1)
        admitted = above < ranks
    if rules.policy == "random":
        calibrated = draw * compared < ranks << DRAW_BITS
        admitted = calibrated if rules.rate == CALIBRATED else draw < rules.rate * 2.0**DRAW_BITS
    if rules.policy == "surprise":
        priority = (level << SEEN_BITS) + state.seen
    if rules.policy == "reservoir":
        priority = (draw << DRAW_BITS) + (state.seen & (2**DRAW_BITS - 1))
    least, leaving = state.priorities.min(-1)
    entry = torch.where(full, leaving, (~held).int().argmax(-1))
    return entry, allowed & (~full | (admitted & (priority > least))), priority


def _read(
    query: Tensor, real: Tensor | None, state: SurpriseStoreState, rules: Rules
) -> tuple[Tensor, Tensor, Tensor]:
    """Context [B, W], weights [B, K] and token ids [B, K] for query [B, E]."""
    held = state.priorities != EMPTY
    if real is not None:
        held = held & real[:, None]
    keys, values, token_ids = state.keys, state.values, state.token_ids.masked_fill(~held, EMPTY)
    if rules.top_k < rules.budget:
        most = largest_scores(query[:, None], state.keys)[:, 0]
        best = top_entries(_scores(query, keys), held, most, rules.top_k)
        held, token_ids = (x.gather(-1, best) for x in (held, token_ids))
        # before any product with the query: what is not read gets no gradient, not nothing times NaN
        keys, values = (x.gather(1, best[..., None].expand(-1, -1, x.shape[-1])) for x in (keys, values))
    weights = softmax_over(_scores(query, keys), held)
    return (weights[..., None] * values).sum(-2), weights, token_ids


def _scores(query: Tensor, keys: Tensor) -> Tensor:
    """Of query [B, E] and keys [B, N, E]: [B, N]."""
    return (keys * query[:, None]).sum(-1) / query.shape[-1] ** 0.5


def largest_scores(query: Tensor, keys: Tensor) -> Tensor:
    """The scores [..., C, N] that queries [..., C, E] and keys [..., N, E] of these lengths have at most."""
    asking, held = (torch.linalg.vector_norm(x.detach(), dim=-1) for x in (query, keys))
    return asking[..., :, None] * held[..., None, :] / query.shape[-1] ** 0.5


def top_entries(score: Tensor, held: Tensor, most: Tensor, top_k: int) -> Tensor:
    """Which entries (last dimension) are read: top_k times the lowest of those next to the best that is left.

    Equal keys are the ordinary case, and their scores differ by rounding, which must not decide. `most` is
    what scores can be at most: a margin of it is far above what rounds, at whatever scale.
    """
    ranked = score.detach().masked_fill(~held, -torch.inf)
    margin = TIE * most.masked_fill(~held, 0.0).amax(-1, keepdim=True)
    left, chosen = torch.ones_like(held), []
    for _ in range(top_k):
        best = ranked.masked_fill(~left, -torch.inf).amax(-1, keepdim=True)
        lowest = (left & ~(ranked < best - margin)).int().argmax(-1, keepdim=True)
        left = left.scatter(-1, lowest, False)
        chosen.append(lowest)
    return torch.cat(chosen, dim=-1)


def softmax_over(score: Tensor, held: Tensor) -> Tensor:
    """Softmax over what is held of the last dimension, exactly 0 elsewhere and where nothing is."""
    floor = torch.finfo(score.dtype).min
    return score.masked_fill(~held, floor).softmax(-1).masked_fill(~held, 0.0)

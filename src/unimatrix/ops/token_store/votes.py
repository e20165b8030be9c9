"""Votes as compiled loops on the CPU: how guesses did in a text so far, and what a vote makes of the logits.

In torch they are `unimatrix.mixers.kept_text.count_hits` and `unimatrix.mixers.suffix_automaton`, which any
device takes and autograd follows; for one token that is a hundred calls for a few dozen numbers. Loops and
torch agree (tests/mixers/test_decoding_loops.py).

Letters: B batch, T time, E guesses of a position, N buckets, V vocabulary.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from unimatrix.errors import UserError
from unimatrix.ops.backend import loops_problem
from unimatrix.ops.internals import plain, watched
from unimatrix.ops.shapes import TokenIds, TokenMask

MOST_LOGITS = 2**13  # of more torch takes the exponentials faster, several at once


def hits_counted(
    ids: TokenIds,
    guesses: Tensor,
    buckets: Tensor,
    counts: Tensor,
    pointed: Tensor,
    present: Tensor,
    mask: TokenMask | None,
    starts: TokenMask | None,
    num_buckets: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Count, token after token, whether it is what was guessed before it; None where that is for torch.

    Args:
        ids: [B, T] int64. guesses, buckets: [B, T, E] int64 of what comes next, -1 for none, and why.
        counts: [B, N, 2] int64, times and hits so far. pointed: [B, 2 E], guesses and buckets of the newest
            token; present: [B] bool, whether there is one.
        mask: [B, T] bool, False is no token. starts: [B, T] bool, where a text begins, before its token.
        num_buckets: N, at least 1.

    Returns:
        of each position's own buckets with what its token tells, [B, T, E, 2]; the next counts, pointed and
        present. Nothing is modified.
    """
    batch, length, each = guesses.shape
    flags = [x for x in (mask, starts) if x is not None]
    if loops_problem(ids) is not None or watched(ids):
        return None
    if not plain(torch.bool, present, *flags):
        return None
    if not plain(torch.int64, ids, guesses, buckets, counts, pointed):
        return None
    if buckets.shape != guesses.shape or counts.shape != (batch, num_buckets, 2) or num_buckets < 1:
        return None
    if pointed.shape != (batch, 2 * each) or present.shape != (batch,):
        return None
    for x in (ids, *flags):
        if x.shape != (batch, length):
            return None
    own = guesses.new_empty(batch, length, each, 2)
    carried = tuple([x.clone(memory_format=torch.contiguous_format) for x in (counts, pointed, present)])
    _loops().count(
        *(ids.contiguous(), guesses.contiguous(), buckets.contiguous()),
        *(None if mask is None else mask.contiguous(), None if starts is None else starts.contiguous()),
        *(*carried, own),
    )
    return (own, *carried)  # type: ignore[return-value]


def vote_mixed(
    logits: Tensor,
    token: Tensor,
    bucket: Tensor,
    counts: Tensor,
    expected: Tensor,
    weights: Tensor,
    gate: Tensor | None,
    strength: float,
) -> Tensor | None:
    """The logits in which the token that is voted for has its new share; None where that is for torch.

        logit p' = w_0 + w_1 logit r + w_2 logit p + gate,     r = (hits + K pi) / (times + K)

    Args:
        logits: [..., V], p after the softmax. token, bucket: [...] int64, token -1 for no vote.
        counts: [..., 2] int64, times and hits. expected: [N], logit pi of each bucket; weights: [3], w.
        gate: [..., 1] or None. strength: K.

    Returns:
        [..., V], new.

    Raises:
        UserError: a token that is none of V, as of a state from elsewhere.
    """
    floating = (logits, expected, weights) if gate is None else (logits, expected, weights, gate)
    if not plain(logits.dtype, *floating) or not plain(torch.int64, token, bucket, counts):
        return None
    rows = logits.shape[:-1]
    if token.shape != rows or bucket.shape != rows or counts.shape != (*rows, 2):
        return None
    if weights.shape != (3,) or expected.shape[0] < 1 or (gate is not None and gate.shape != (*rows, 1)):
        return None
    mixed = logits.clone(memory_format=torch.contiguous_format)
    unknown = _loops().mix(
        *(mixed, token.contiguous(), bucket.contiguous(), counts.contiguous()),
        *(expected.detach().contiguous(), weights.detach().contiguous()),
        *(None if gate is None else gate.contiguous(), strength),
    )
    if unknown:
        most = mixed.shape[-1] - 1
        raise UserError(f"votes: expected tokens from 0 to {most}, got {unknown} of {token.numel()} beyond")
    return mixed


def mixes_here(logits: Tensor) -> bool:
    """Whether `vote_mixed` may be asked: no gradients, nobody following the operators, few logits."""
    # watched first: a graph for all lengths may not ask how many there are
    if torch.is_grad_enabled() or watched(logits) or logits.numel() > MOST_LOGITS:
        return False
    return logits.dtype in (torch.float32, torch.float64) and loops_problem(logits) is None


@cache
def _loops() -> Any:
    from unimatrix.ops.token_store import vote_loops

    return vote_loops

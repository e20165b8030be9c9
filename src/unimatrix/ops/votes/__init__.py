"""Votes as compiled loops on the CPU: how guesses did in a text so far, and what a vote makes of the logits.

In torch they are `unimatrix.mixers.kept_text.count_hits` and `unimatrix.mixers.suffix_automaton`, which any
device takes and autograd follows; for one token that is a hundred calls for a few dozen numbers. Loops and
torch agree (tests/mixers/test_vote_loops.py).

Letters: B batch, T time, E guesses of a position, N buckets, R rows, V vocabulary.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from unimatrix.errors import UserError
from unimatrix.ops.backend import loops_problem
from unimatrix.ops.internals import watched
from unimatrix.ops.shapes import TokenIds, TokenMask

MOST_LOGITS = 2**13  # of more torch takes the exponentials faster, several at once


def counts_here(ids: TokenIds, guesses: Tensor, counts: Tensor, pointed: Tensor, present: Tensor) -> bool:
    """Whether `hits_counted` takes these: on the CPU, and nobody follows the operators."""
    batch, _, each = guesses.shape
    if loops_problem(ids) is not None or watched(ids):
        return False
    whole = all(x.dtype == torch.int64 and x.device == ids.device for x in (ids, guesses, counts, pointed))
    there = present.dtype == torch.bool and present.shape == (batch,) and pointed.shape == (batch, 2 * each)
    return whole and there and counts.dim() == 3 and counts.shape[::2] == (batch, 2)


def hits_counted(
    ids: TokenIds,
    guesses: Tensor,
    buckets: Tensor,
    counts: Tensor,
    pointed: Tensor,
    present: Tensor,
    mask: TokenMask | None,
    starts: TokenMask | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Count, token after token, whether it is what was guessed before it.

    Args:
        ids: [B, T] int64. guesses, buckets: [B, T, E] int64 of what comes next, -1 for none, and why.
        counts: [B, N, 2] int64, times and hits so far. pointed: [B, 2 E], guesses and buckets of the newest
            token; present: [B] bool, whether there is one.
        mask: [B, T] bool, False is no token. starts: [B, T] bool, where a text begins, before its token.

    Returns:
        of each position's own buckets with what its token tells, [B, T, E, 2]; the next counts, pointed and
        present. Nothing is modified.
    """
    own = guesses.new_empty(*guesses.shape, 2)
    carried = tuple([x.clone(memory_format=torch.contiguous_format) for x in (counts, pointed, present)])
    _loops().count(
        *(ids.contiguous(), guesses.contiguous(), buckets.contiguous()),
        *(None if mask is None else mask.contiguous(), None if starts is None else starts.contiguous()),
        *(*carried, own),
    )
    return own, *carried


def mixes_here(logits: Tensor, weights: Tensor) -> bool:
    """Whether `vote_mixed` takes these: no gradients, nobody following, few plain floats on the CPU."""
    if (
        logits.numel() > MOST_LOGITS
        or torch.is_grad_enabled()
        or loops_problem(logits) is not None
        or watched(logits)
    ):
        return False
    return logits.dtype in (torch.float32, torch.float64) and weights.dtype == logits.dtype


def vote_mixed(
    logits: Tensor,
    token: Tensor,
    bucket: Tensor,
    counts: Tensor,
    expected: Tensor,
    weights: Tensor,
    gate: Tensor | None,
    strength: float,
) -> Tensor:
    """The logits in which the token that is voted for has its new share.

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


@cache
def _loops() -> Any:
    from unimatrix.ops.votes import kernels

    return kernels

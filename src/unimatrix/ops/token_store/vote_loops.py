"""The compiled loops of votes.

Imported only when one runs; the machine code is kept on disk (unimatrix.ops.jit).

Letters: as in unimatrix.ops.token_store.votes. All tensors are contiguous and come as addresses, 0 for none:
numpy arrays of them would cost as much as a token's loops.
"""

import math

import numba
import numpy as np
from torch import Tensor

from unimatrix.ops.jit import kernel
from unimatrix.ops.rows import ZEROS, address, flags, larger, row
from unimatrix.ops.token_store import NONE

WHOLE = np.int64(0)  # the type of the counts, ids and buckets


def count(
    ids: Tensor,
    guesses: Tensor,
    buckets: Tensor,
    real: Tensor | None,
    starts: Tensor | None,
    counts: Tensor,
    pointed: Tensor,
    present: Tensor,
    own: Tensor,
) -> None:
    """Fill own; counts, pointed and present come as those before the text, and leave as those behind it."""
    _count(
        1,  # a few numbers each: one thread
        *(ids.data_ptr(), guesses.data_ptr(), buckets.data_ptr(), address(real), address(starts)),
        *(counts.data_ptr(), pointed.data_ptr(), present.data_ptr(), own.data_ptr()),
        (*guesses.shape, counts.shape[1]),
    )


def mix(
    logits: Tensor,
    token: Tensor,
    bucket: Tensor,
    counts: Tensor,
    expected: Tensor,
    weights: Tensor,
    gate: Tensor | None,
    strength: float,
) -> int:
    """Each row's vote, in place; returns how many vote for no token of the vocabulary."""
    return _mix(
        1,
        *(logits.data_ptr(), token.data_ptr(), bucket.data_ptr(), counts.data_ptr()),
        *(expected.data_ptr(), weights.data_ptr(), address(gate)),
        (token.numel(), logits.shape[-1], expected.shape[0]),
        strength,
        ZEROS[logits.dtype],
    )


@kernel
def _count(
    all_ids, all_guesses, all_buckets, real, starts, all_counts, all_pointed, all_present, all_own, sizes
):
    batch, length, each, num_buckets = sizes
    for n in numba.prange(batch):
        b = np.int64(n)
        ids = row(all_ids, b * length, length, WHOLE)
        guesses = row(all_guesses, b * length * each, length * each, WHOLE)
        buckets = row(all_buckets, b * length * each, length * each, WHOLE)
        counts = row(all_counts, b * num_buckets * 2, num_buckets * 2, WHOLE)
        pointed = row(all_pointed, b * 2 * each, 2 * each, WHOLE)
        own = row(all_own, b * length * each * 2, length * each * 2, WHOLE)
        present, here = flags(all_present, b, 1), flags(real, b * length, length)
        begins = flags(starts, b * length, length)
        for t in range(length):
            if starts != 0 and begins[t]:
                for i in range(num_buckets * 2):
                    counts[i] = 0
                for i in range(2 * each):
                    pointed[i] = 0
                present[0] = 0
            token = real == 0 or here[t] != 0
            if token and present[0]:
                for e in range(each):
                    if pointed[e] != NONE:
                        at = 2 * min(max(pointed[each + e], 0), num_buckets - 1)  # whatever a state says
                        counts[at] += 1
                        counts[at + 1] += pointed[e] == ids[t]
            for e in range(each):
                at = 2 * min(max(buckets[t * each + e], 0), num_buckets - 1)
                own[2 * (t * each + e)], own[2 * (t * each + e) + 1] = counts[at], counts[at + 1]
            if token:
                for e in range(each):
                    pointed[e], pointed[each + e] = guesses[t * each + e], buckets[t * each + e]
                present[0] = 1


@kernel
def _mix(all_logits, tokens, buckets, all_counts, all_expected, all_weights, gates, sizes, strength, zero):
    rows, vocab, num_buckets = sizes
    unknown = 0
    for n in numba.prange(rows):
        r = np.int64(n)
        chosen = row(tokens, r, 1, WHOLE)[0]
        if chosen == NONE:
            continue
        if not 0 <= chosen < vocab:
            unknown += 1
            continue
        logits = row(all_logits, r * vocab, vocab, zero)
        if not math.isfinite(logits[chosen]):
            continue  # a head of classes gives other tokens no chance, and no vote can
        most = np.float64(-np.inf)
        for v in range(vocab):
            if v != chosen:
                most = larger(np.float64(logits[v]), most)
        shift = 0.0 if math.isinf(most) else most
        total = 0.0
        for v in range(vocab):
            if v != chosen:
                total += math.exp(logits[v] - shift)
        others = math.log(total) + shift
        counts, weights = row(all_counts, 2 * r, 2, WHOLE), row(all_weights, 0, 3, zero)
        times = np.float64(max(counts[0], 0))
        hits = min(np.float64(max(counts[1], 0)), times)  # whatever a file says
        bucket = min(max(row(buckets, r, 1, WHOLE)[0], 0), num_buckets - 1)
        prior = np.float64(row(all_expected, bucket, 1, zero)[0])
        right = hits + strength / (1 + math.exp(-prior))
        wrong = times - hits + strength / (1 + math.exp(prior))
        wanted = weights[0] + weights[1] * (math.log(right) - math.log(wrong))
        wanted += weights[2] * (logits[chosen] - others)
        if gates != 0:
            wanted += row(gates, r, 1, zero)[0]
        logits[chosen] = others + wanted
    return unknown

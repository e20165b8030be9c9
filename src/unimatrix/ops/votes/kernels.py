"""The compiled loops of votes.

Imported only when one runs; the machine code is kept on disk (unimatrix.ops.jit).

Letters: as in unimatrix.ops.votes. All arrays are contiguous; `real` and `starts` have shape [0, 0]
where there is none of them, `gate` has [0].
"""

import math
from functools import partial

import numba
import numpy as np

from unimatrix.ops.jit import kernel
from unimatrix.ops.rows import larger
from unimatrix.ops.token_store import NONE


@kernel
def _count(ids, guesses, buckets, real, starts, counts, pointed, present, own):
    """Counts, pointed and present come as those before the text, and leave as those behind it."""
    batch, length, each = guesses.shape
    most = counts.shape[1] - 1
    masked, starting = real.shape[0] > 0, starts.shape[0] > 0
    for b in numba.prange(batch):
        for t in range(length):
            if starting and starts[b, t]:
                counts[b, :, :] = 0
                pointed[b, :] = 0
                present[b] = False
            here = not masked or real[b, t]
            if here and present[b]:
                for e in range(each):
                    if pointed[b, e] != NONE:
                        n = min(max(pointed[b, each + e], 0), most)  # whatever a state says
                        counts[b, n, 0] += 1
                        counts[b, n, 1] += pointed[b, e] == ids[b, t]
            for e in range(each):
                n = min(max(buckets[b, t, e], 0), most)
                own[b, t, e, 0], own[b, t, e, 1] = counts[b, n, 0], counts[b, n, 1]
            if here:
                for e in range(each):
                    pointed[b, e], pointed[b, each + e] = guesses[b, t, e], buckets[b, t, e]
                present[b] = True


@kernel
def _mix(logits, token, bucket, counts, expected, weights, gate, strength):
    """Each row's vote, in place; returns how many vote for no token of the vocabulary."""
    rows, vocab = logits.shape
    unknown = 0
    for r in numba.prange(rows):
        chosen = token[r]
        if chosen == NONE:
            continue
        if not 0 <= chosen < vocab:
            unknown += 1
            continue
        if not math.isfinite(logits[r, chosen]):
            continue  # a head of classes gives other tokens no chance, and no vote can
        most = np.float64(-np.inf)
        for n in range(vocab):
            if n != chosen:
                most = larger(np.float64(logits[r, n]), most)
        shift = 0.0 if math.isinf(most) else most
        total = 0.0
        for n in range(vocab):
            if n != chosen:
                total += math.exp(logits[r, n] - shift)
        others = math.log(total) + shift
        times = np.float64(max(counts[r, 0], 0))
        hits = min(np.float64(max(counts[r, 1], 0)), times)  # whatever a file says
        prior = np.float64(expected[min(max(bucket[r], 0), len(expected) - 1)])
        right = hits + strength / (1 + math.exp(-prior))
        wrong = times - hits + strength / (1 + math.exp(prior))
        wanted = weights[0] + weights[1] * (math.log(right) - math.log(wrong))
        wanted += weights[2] * (logits[r, chosen] - others)
        if len(gate):
            wanted += gate[r]
        logits[r, chosen] = others + wanted
    return unknown


# a few numbers each: one thread
count, mix = partial(_count, 1), partial(_mix, 1)

"""The learning rate of a step: a pure function, so that a resumed run has nothing to restore."""

import math

from unimatrix.train.config import OptimConfig


def learning_rate(optim: OptimConfig, *, step: int, steps: int) -> float:
    """The learning rate of optimiser step `step` (0 is the first) of `steps`.

    Warm-up: lr * (step + 1) / warmup_steps over the first warmup_steps. After it, `constant` stays at lr;
    `cosine` and `linear` fall to final_lr_share * lr, which the last step has, unless it is the first behind
    the warm-up: that one has lr.
    """
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    if optim.schedule == "constant":
        return optim.lr
    last = steps - 1
    # from 0 at the first step after the warm-up to 1 at the last step
    progress = min(1.0, (step - optim.warmup_steps) / max(1, last - optim.warmup_steps))
    left = 0.5 * (1.0 + math.cos(math.pi * progress)) if optim.schedule == "cosine" else 1.0 - progress
    return optim.lr * (optim.final_lr_share + (1.0 - optim.final_lr_share) * left)

"""Training: the experiment's settings, checkpoints, and the one loop."""

from unimatrix.train.config import Experiment, LoopConfig, ModelChoice, OptimConfig

__all__ = ["Experiment", "LoopConfig", "ModelChoice", "OptimConfig"]

"""Training: the experiment's settings, checkpoints, and the one loop."""

from unimatrix.train.checkpoint import Checkpoint, find_checkpoint, latest_checkpoint, load_checkpoint
from unimatrix.train.config import Experiment, LoopConfig, ModelChoice, OptimConfig
from unimatrix.train.loop import TrainResult, train
from unimatrix.train.sources import describe

__all__ = [
    "Checkpoint",
    "Experiment",
    "LoopConfig",
    "ModelChoice",
    "OptimConfig",
    "TrainResult",
    "describe",
    "find_checkpoint",
    "latest_checkpoint",
    "load_checkpoint",
    "train",
]

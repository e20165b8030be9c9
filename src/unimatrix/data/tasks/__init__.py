"""Synthetic tasks: sequences without end, each a pure function of settings, seed and step."""

from unimatrix.data.tasks.batch import IGNORE, Batch, Stream
from unimatrix.data.tasks.catalogue import TASKS, Task, TaskConfig, task_of
from unimatrix.data.tasks.mqar import MQARConfig
from unimatrix.data.tasks.recall import RecallConfig
from unimatrix.data.tasks.signal_noise import SignalNoiseConfig
from unimatrix.data.tasks.triple_interaction import TripleInteractionConfig

__all__ = [
    "IGNORE",
    "TASKS",
    "Batch",
    "MQARConfig",
    "RecallConfig",
    "SignalNoiseConfig",
    "Stream",
    "Task",
    "TaskConfig",
    "TripleInteractionConfig",
    "task_of",
]

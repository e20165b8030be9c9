"""Every task by its kind. A task is a module with the functions of `Task`, and one line in TASKS."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from unimatrix.data.tasks import recall
from unimatrix.data.tasks.batch import Batch
from unimatrix.data.tasks.recall import RecallConfig

# the settings of any task: a union, as soon as there is a second one. Each has kind, length, vocab_size and
# eval_sequences
TaskConfig = RecallConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A kind of task: its settings, and functions of them (see unimatrix.data.tasks.recall for each)."""

    config: type[TaskConfig]
    make: Callable[..., Batch]
    chance: Callable[[TaskConfig], float]
    variants: Callable[[TaskConfig], Mapping[str, TaskConfig]]
    fingerprint: Callable[..., str]


TASKS: dict[str, Task] = {
    RecallConfig.kind: Task(
        config=RecallConfig,
        make=recall.make,
        chance=recall.chance,
        variants=recall.variants,
        fingerprint=recall.fingerprint,
    ),
}


def task_of(config: TaskConfig) -> Task:
    """The task that these settings are of."""
    return TASKS[config.kind]

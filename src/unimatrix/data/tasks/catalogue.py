"""Every task by its kind. A task is a module with the functions of `Task`, and one line in TASKS."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from unimatrix.data.tasks import mqar, recall, signal_noise, triple_interaction
from unimatrix.data.tasks.batch import Batch
from unimatrix.data.tasks.mqar import MQARConfig
from unimatrix.data.tasks.recall import RecallConfig
from unimatrix.data.tasks.signal_noise import SignalNoiseConfig
from unimatrix.data.tasks.triple_interaction import TripleInteractionConfig

# the settings of any task. Each has kind, length, vocab_size and eval_sequences
TaskConfig = RecallConfig | TripleInteractionConfig | SignalNoiseConfig | MQARConfig

Config = TypeVar("Config", RecallConfig, TripleInteractionConfig, SignalNoiseConfig, MQARConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task(Generic[Config]):
    """A kind of task: its settings, and functions of them (see unimatrix.data.tasks.recall for each).

    logits_where_asked: whether training computes logits at the questions alone: the same loss but for its
        rounding, many times faster with a large vocabulary. False for tasks whose rows were trained without.
    version: raised by hand when the same settings come to draw other sequences, or to measure other numbers.
    """

    config: type[Config]
    make: Callable[..., Batch]
    chance: Callable[[Config], float]
    variants: Callable[[Config], Mapping[str, Config]]
    fingerprint: Callable[..., str]
    symbol: Callable[[Config, int], str]
    read_symbols: Callable[[Config, str], list[int]]
    logits_where_asked: bool = False
    version: int = 1


TASKS: dict[str, Task[Any]] = {
    RecallConfig.kind: Task(
        config=RecallConfig,
        make=recall.make,
        chance=recall.chance,
        variants=recall.variants,
        fingerprint=recall.fingerprint,
        symbol=recall.symbol,
        read_symbols=recall.read_symbols,
    ),
    TripleInteractionConfig.kind: Task(
        config=TripleInteractionConfig,
        make=triple_interaction.make,
        chance=triple_interaction.chance,
        variants=triple_interaction.variants,
        fingerprint=triple_interaction.fingerprint,
        symbol=triple_interaction.symbol,
        read_symbols=triple_interaction.read_symbols,
    ),
    SignalNoiseConfig.kind: Task(
        config=SignalNoiseConfig,
        make=signal_noise.make,
        chance=signal_noise.chance,
        variants=signal_noise.variants,
        fingerprint=signal_noise.fingerprint,
        symbol=signal_noise.symbol,
        read_symbols=signal_noise.read_symbols,
    ),
    MQARConfig.kind: Task(
        config=MQARConfig,
        make=mqar.make,
        chance=mqar.chance,
        variants=mqar.variants,
        fingerprint=mqar.fingerprint,
        symbol=mqar.symbol,
        read_symbols=mqar.read_symbols,
        logits_where_asked=True,
    ),
}


def task_of(config: TaskConfig) -> Task[Any]:
    """The task that these settings are of."""
    return TASKS[config.kind]

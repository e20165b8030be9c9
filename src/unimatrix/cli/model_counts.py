"""What `unimatrix models` prints of each preset, counted on built models, which takes half a minute."""

from dataclasses import dataclass

import torch

from unimatrix.data.tasks import TripleInteractionConfig
from unimatrix.models import (
    PEER_PRESETS,
    PRESETS,
    TASK_PRESETS,
    LanguageModel,
    Mamba2,
    build,
    parameter_count,
    state_bytes,
)

BYTE_VOCABULARY, RECALL_VOCABULARY = 259, 64
STATE_TOKENS = (128, 4096)
_PIECE = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """One line: counts of parameters for both vocabularies, bytes of state by number of tokens."""

    name: str
    use: str
    does: str
    parameters_bytes: int
    parameters_recall: int
    state_bytes: dict[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskCounted:
    """One line of those made for one task: parameters, and bytes of state after one of its sequences."""

    name: str
    use: str
    does: str
    task: str
    vocab_size: int
    parameters: int
    state_bytes: dict[int, int]


def count_all() -> list[Counted | TaskCounted]:
    """Every preset, those for one task last."""
    return [*map(count, PRESETS | PEER_PRESETS), *map(count_task_preset, TASK_PRESETS)]


def count(name: str) -> Counted:
    """Build the preset and count."""
    preset = (PRESETS | PEER_PRESETS)[name]
    return Counted(
        name=name,
        use=preset.use,
        does=_does(preset.about),
        parameters_bytes=parameter_count(build(name, vocab_size=BYTE_VOCABULARY)),
        parameters_recall=parameter_count(build(name, vocab_size=RECALL_VOCABULARY)),
        state_bytes=_measured_state(name),
    )


@torch.no_grad()
def count_task_preset(name: str) -> TaskCounted:
    """Build the preset for its task and count."""
    task = TripleInteractionConfig()
    model = build(name, vocab_size=task.vocab_size, max_positions=task.length).eval()
    _, state = model(torch.zeros(1, task.length, dtype=torch.int64))
    return TaskCounted(
        name=name,
        use=TASK_PRESETS[name].use,
        does=_does(TASK_PRESETS[name].about),
        task=task.kind,
        vocab_size=task.vocab_size,
        parameters=parameter_count(model),
        state_bytes={task.length: state_bytes(state)},
    )


def _does(about: str) -> str:
    """What a preset is, without the counts at its end, which have their own columns."""
    return about.split(". ")[0].rstrip(".")


@torch.no_grad()
def _measured_state(name: str) -> dict[int, int]:
    model = build(name, max_positions=None).eval()
    assert isinstance(model, LanguageModel | Mamba2)
    state = None
    if model.config.recurrent:  # one size however long the text, so that one token tells it
        _, state = model(torch.zeros(1, 1, dtype=torch.int64))
        return dict.fromkeys(STATE_TOKENS, state_bytes(state))
    sizes: dict[int, int] = {}
    read = 0
    while read < STATE_TOKENS[-1]:
        until = min([read + _PIECE, *(tokens for tokens in STATE_TOKENS if tokens > read)])
        _, state = model(torch.zeros(1, until - read, dtype=torch.int64), state)
        read = until
        if read in STATE_TOKENS:
            sizes[read] = state_bytes(state)
    return sizes

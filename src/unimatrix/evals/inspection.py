"""What a slot memory holds and does, position by position: the facts behind `unimatrix inspect`.

Letters: T positions, N slots, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unimatrix.errors import UserError
from unimatrix.mixers import Recalled, SlotMemory, SlotMemoryMixerState
from unimatrix.mixers.pointer import pointer_votes
from unimatrix.models import AnyModel, LanguageModel, LanguageModelState
from unimatrix.ops.slot_memory import EMPTY

TOP_CHOICES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One token as the answer: the vocabulary's logit, and what the pointer adds (0 without a pointer)."""

    token: int
    word: float
    vote: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One position.

    token: its id. written: the slot it wrote, None for none. replaced: (key, value) that the slot held
    before, None if it was empty. strength: the write strength. weights: [N], how much each slot was read.
    keys, values: [N], the token ids that the slots hold after the write, EMPTY (-1) for none.
    gate: the pointer gate, None without a pointer. choices: the likeliest next tokens, best first.
    """

    token: int
    written: int | None
    replaced: tuple[int, int] | None
    strength: float
    weights: tuple[float, ...]
    keys: tuple[int, ...]
    values: tuple[int, ...]
    gate: float | None
    choices: tuple[Choice, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotHistory:
    """A sequence read by a model with a slot memory."""

    steps: tuple[Step, ...]

    @property
    def num_slots(self) -> int:
        return len(self.steps[0].keys)

    def __post_init__(self) -> None:
        if not self.steps or not self.steps[0].keys:
            raise UserError("steps: expected at least one, with at least one slot")
        for position, step in enumerate(self.steps):
            lengths = {len(step.weights), len(step.keys), len(step.values)}
            slots = range(self.num_slots)
            if lengths != {len(slots)} or (step.written is not None and step.written not in slots):
                raise UserError(f"steps[{position}]: expected {len(slots)} slots, as in the first step")
            if not step.choices:
                raise UserError(f"steps[{position}]: expected at least one choice")


@dataclass(frozen=True, kw_only=True, slots=True)
class Traced:
    """A history with words: names by token id (a text, as in JSON), and the right answer's name."""

    history: SlotHistory
    names: dict[str, str]
    expected: str | None

    def name(self, token: int) -> str:
        """What a token is called."""
        return self.names.get(str(token), "?")


@torch.inference_mode()
def inspect_slots(model: AnyModel, input_ids: Tensor) -> SlotHistory:
    """Feed a sequence token by token, as in decoding, and note what the slot memory does.

    Args:
        model: one with a slot memory; it is put into evaluation mode and back.
        input_ids: [T] int64, at least one.
    Raises:
        UserError: the model has no slot memory, or there is no token.
    """
    name, memory = slot_memory_of(model)
    assert isinstance(model, LanguageModel)
    if input_ids.dim() != 1:
        raise UserError(f"input_ids: expected one sequence, [T], got {list(input_ids.shape)}")
    if input_ids.numel() == 0:
        raise UserError("inspect: expected at least one token, got none")
    held = [(EMPTY, EMPTY)] * memory.num_slots
    previous = EMPTY
    state: LanguageModelState | None = None
    steps = []
    was_training = model.training
    model.eval()
    try:
        for token in input_ids.tolist():
            features = model.features(torch.full((1, 1), token, device=input_ids.device), state)
            state = features.state
            written = _written(state.parts[name])
            replaced = None
            if written is not None:
                replaced = None if held[written][0] == EMPTY else held[written]
                held[written] = (previous, token)
            words = model.words(features)[0, 0].float()
            recalled: Recalled = features.heard[name, None].seen
            votes = None
            if memory.pointer_gate is not None:
                reads = recalled.reads
                read = (reads.weights, reads.token_ids)
                votes = pointer_votes(memory.pointer_gate, features.hidden, *read, len(words))[0, 0].float()
            others = [key for key, given in features.heard.items() if given.votes is not None]
            if votes is not None and others != [(name, None)]:
                # other parts vote too: what is not this one's counts as the words'
                words = model.logits(features)[0, 0].float() - votes
            steps.append(_step(token, words, votes, recalled, written, replaced, held))
            previous = token
    finally:
        model.train(was_training)
    return SlotHistory(steps=tuple(steps))


def slot_memory_of(model: AnyModel) -> tuple[str, SlotMemory]:
    """The model's slot memory and its name.

    Raises:
        UserError: it has none.
    """
    parts = model.config.parts if isinstance(model, LanguageModel) else ()
    for name in parts:
        part = model.get_submodule(name)
        if isinstance(part, SlotMemory):
            return name, part
    raise UserError(
        "inspect: expected a model with a slot memory (unimatrix-sparse-pointer, or train with "
        "--set parts.memory=slots), got none"
    )


def _written(state: SlotMemoryMixerState) -> int | None:
    """The slot that the last token wrote: the one that is 0 positions old."""
    fresh = (state.slots.ages[0] == 0).nonzero()
    return None if len(fresh) == 0 else int(fresh[0, 0])


def _step(
    token: int,
    words: Tensor,
    votes: Tensor | None,
    recalled: Recalled,
    written: int | None,
    replaced: tuple[int, int] | None,
    held: list[tuple[int, int]],
) -> Step:
    reads, gate = recalled.reads, None
    weights = reads.weights[0, 0]
    if reads.slots is not None:
        weights = weights.new_zeros(len(held)).scatter(0, reads.slots[0, 0], weights)
    if votes is not None:
        total = float(weights.sum())
        # the votes are the gate times weights that add up to 1, or to 0 where no slot is held
        gate = float(votes.sum()) / total if total > 0 else 0.0
    votes = torch.zeros_like(words) if votes is None else votes
    best = (words + votes).topk(min(TOP_CHOICES, len(words))).indices.tolist()
    return Step(
        token=token,
        written=written,
        replaced=replaced,
        strength=round(float(recalled.strength[0, 0]), 4),
        weights=tuple(round(float(weight), 4) for weight in weights),
        keys=tuple(key for key, _ in held),
        values=tuple(value for _, value in held),
        gate=None if gate is None else round(gate, 4),
        choices=tuple(
            Choice(token=i, word=round(float(words[i]), 4), vote=round(float(votes[i]), 4)) for i in best
        ),
    )

"""A model's state as transformers carries it from call to call, and the only place that knows its name there.

Up to 5.23 transformers calls it `past_key_values` in the arguments of models and `generate` and in what they
return; from 5.24 on `cache`, and the old name warns. Here either name will do, with either release.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from transformers import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from unimatrix.errors import UserError
from unimatrix.mixers.documents import positions_in_document
from unimatrix.models import select_batch

CACHE_NAMES = ("cache", "past_key_values")
# the one that the installed transformers knows, and the other
CACHE_NAME, _OTHER_NAME = sorted(
    CACHE_NAMES, key=lambda name: name not in {field.name for field in fields(CausalLMOutputWithPast)}
)

# how many tokens a recording state can go back at least, and how many lie between two that it keeps
WINDOW, SPACING = 128, 16


def by_one_name(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments in which the state goes by the name that the installed transformers knows.

    Raises:
        UserError: it comes by both names.
    """
    if kwargs.get(_OTHER_NAME) is not None and kwargs.get(CACHE_NAME) is not None:
        raise UserError("cache: expected it by one name, got past_key_values too")
    named = {name: value for name, value in kwargs.items() if name != _OTHER_NAME}
    return named if kwargs.get(_OTHER_NAME) is None else named | {CACHE_NAME: kwargs[_OTHER_NAME]}


class _EitherName:
    """A mapping in which the state answers to both its names."""

    def __getitem__(self, k: Any) -> Any:
        return super().__getitem__(_known(k))  # type: ignore[reportAttributeAccessIssue]

    def __contains__(self, key: object) -> bool:
        return super().__contains__(_known(key))  # type: ignore[reportAttributeAccessIssue]

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(_known(key), default)  # type: ignore[reportAttributeAccessIssue]


def _known(key: Any) -> Any:
    return CACHE_NAME if isinstance(key, str) and key == _OTHER_NAME else key


setattr(_EitherName, _OTHER_NAME, property(lambda output: getattr(output, CACHE_NAME)))


class Prepared(_EitherName, dict[str, Any]):
    """Arguments of a forward pass: the state is found by both its names, and handed on by one."""


@dataclass
class UniMatrixModelOutput(_EitherName, BaseModelOutputWithPast):
    """last_hidden_state [B, T, D], cache, hidden_states."""


@dataclass
class UniMatrixOutput(_EitherName, CausalLMOutputWithPast):
    """loss, logits [B, T, V], cache, hidden_states."""


class Read(NamedTuple):
    """What one call of the model reads, and the state before it."""

    state: Any
    given: Tensor  # ids [B, T], or embeddings [B, T, D]
    mask: Tensor | None  # [B, T] bool
    starts: Tensor | None = None  # [B, T] bool, where documents begin

    @property
    def length(self) -> int:
        return self.given.shape[1]

    @property
    def real(self) -> Tensor:
        if self.mask is not None:
            return self.mask
        return torch.ones(self.given.shape[:2], dtype=torch.bool, device=self.given.device)

    def goes_with(self, more: "Read", *, most: int) -> bool:
        """Whether both may be one, of the same kind and at most so long."""
        return self.given.dim() == more.given.dim() and self.length + more.length <= most

    def joined(self, more: "Read") -> "Read":
        mask = starts = None
        if self.mask is not None or more.mask is not None:
            mask = torch.cat([self.real, more.real], dim=1)
        if self.starts is not None or more.starts is not None:
            none = (torch.zeros_like(read.real) for read in (self, more))
            both = zip((self, more), none, strict=True)
            starts = torch.cat([no if read.starts is None else read.starts for read, no in both], dim=1)
        return Read(self.state, torch.cat([self.given, more.given], dim=1), mask, starts)

    def part(self, start: int, stop: int | None) -> "Read":
        here = (None if whole is None else whole[:, start:stop] for whole in self[1:])
        return Read(self.state, *here)  # type: ignore[reportArgumentType]


class UniMatrixCache(Cache):
    """A model's state between two calls.

    The forward pass replaces the state and never writes into its tensors, so a state taken out stays valid.

    From `activate_past_recording` on it can go back (`crop`) by up to WINDOW tokens: it keeps the state from
    before every SPACING of them, and the tokens. What it goes back to lies between two of these states as a
    rule; the tokens from the first on are then read again, together with the next ones.

    Attributes:
        seq_length: P, how many positions were fed, padding included.
        config: the configuration of the model whose state it is, None before the first token.
    """

    def __init__(self) -> None:
        super().__init__(
            layers=[]
        )  # transformers' layers hold keys and values; the state is kept here instead
        self._state: Any = None
        self.seq_length = 0
        self.config: Any = None
        self._recording = False
        self._past: list[Read] = []  # the last tokens before `_state`, oldest first
        self._again: Read | None = None  # tokens after `_state` that were read before; it is their state

    @property
    def state(self) -> Any:
        """The language model's state after seq_length positions, None before the first token.

        Raises:
            UserError: it went back to between two kept states, and nothing has been read since.
        """
        if self._again is not None:
            raise UserError(
                f"state: expected a forward pass first, which reads {self._again.length} tokens again that"
                " crop went back to, got none since"
            )
        return self._state

    def __copy__(self) -> "UniMatrixCache":
        """A branch: what either reads from here on, the other never hears of."""
        branch = type(self).__new__(type(self))
        branch.__dict__.update(self.__dict__)
        branch._past = list(self._past)  # the one thing that is changed in place
        return branch

    def __bool__(self) -> bool:
        # transformers' own counts layers: `cache or UniMatrixCache()` would forget what was read
        return True

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.seq_length

    def take(self, given: Tensor, mask: Tensor | None, starts: Tensor | None = None) -> list[Read]:
        """What the model has to read one after another for these tokens [B, T]; they are the end of it.

        Only the first piece comes with its state. Before them come tokens that were read before; recording,
        the last WINDOW of a long text are a piece of their own, so that there is a state from before them.
        """
        again, new = self._again, Read(self._state, given, mask, starts)
        pieces = [new]
        if self._recording and new.length > WINDOW:
            pieces = [new.part(0, -WINDOW), new.part(-WINDOW, None)]
        if again is None:
            return pieces
        if again.goes_with(pieces[0], most=SPACING + pieces[0].length):
            return [again.joined(pieces[0]), *pieces[1:]]
        return [again, *pieces]

    def put(self, state: Any, num_new: int, pieces: list[Read]) -> None:
        """The state after num_new more tokens, the end of `pieces`, each of which has the state before it.

        Recording, it can go back behind all of the newest call, however long its drafts were.
        """
        window = max(WINDOW, num_new)
        self._state, self.seq_length, self._again = state, self.seq_length + num_new, None
        if not self._recording:
            return
        for piece in pieces:
            if self._past and self._past[-1].goes_with(piece, most=SPACING):
                self._past[-1] = self._past[-1].joined(piece)
            else:
                self._past.append(piece)
        while sum(read.length for read in self._past[1:]) >= window:
            del self._past[0]

    def activate_past_recording(self) -> None:
        """Keep from now on what it takes to go back."""
        self._recording = True

    def crop(self, tokens_to_remove: int) -> None:
        """Go back by -tokens_to_remove tokens.

        Raises:
            UserError: a positive number, or further back than it is recorded.
        """
        if tokens_to_remove > 0:
            raise UserError(f"crop: expected minus the number of tokens to remove, got {tokens_to_remove}")
        rest = -tokens_to_remove
        reads = [*self._past, *([] if self._again is None else [self._again])]
        recorded = sum(read.length for read in reads)
        if rest > recorded:
            raise UserError(
                f"crop: this state can go back by {recorded} tokens, got {rest}; activate_past_recording()"
                f" before they are read keeps what {WINDOW} need"
            )
        self.seq_length -= rest
        while rest > 0:
            read = reads.pop()
            kept = read.length - rest
            self._state, self._again = read.state, read.part(0, kept) if kept > 0 else None
            rest = max(0, -kept)
            self._past = reads

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Continue row beam_idx[i] as row i (beam search)."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self._state = select_batch(self._state, indices)
        self._past = [select_batch(read, indices) for read in self._past]
        self._again = select_batch(self._again, indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.batch_size > 0:
            rows = torch.arange(self.batch_size)
            self.batch_select_indices(rows.repeat_interleave(repeats))

    def reset(self) -> None:
        self._state, self.seq_length, self.config, self._past, self._again = None, 0, None, [], None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        raise TypeError("UniMatrixCache holds a model's state, not keys and values")

    def __repr__(self) -> str:
        return f"UniMatrixCache(seq_length={self.seq_length}, batch_size={self.batch_size})"

    @property
    def batch_size(self) -> int:
        part = self._state if self._again is None else self._again.given
        while part is not None and not isinstance(part, Tensor):
            part = part[0]
        return -1 if part is None else part.shape[0]

    @property
    def position(self) -> Tensor | None:
        """[B], how many tokens of the last document were read; None before the first."""
        start = None if self._state is None else self._state.position
        again = self._again
        if again is None:
            return start
        start = torch.zeros_like(again.real[:, 0], dtype=torch.int64) if start is None else start
        return positions_in_document(again.mask, again.starts, start, again.length)[1]

    @property
    def is_linear(self) -> list[bool]:
        # generate leaves out what the state has read already only where this is not all True
        return [False]

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_croppable(self) -> bool:
        return True


# in and out of torch.export, torch.func and whatever else takes nests of tensors apart
_PARTS = ("_state", "seq_length", "_past", "_again")
_KEYS = [pytree.GetAttrKey(name) for name in ("state", *_PARTS[1:])]  # as exported programs name them


def _take_apart(cache: UniMatrixCache) -> tuple[list[Any], bool]:
    return [getattr(cache, name) for name in _PARTS], cache._recording


def _take_apart_by_name(cache: UniMatrixCache) -> tuple[list[Any], bool]:
    parts, recording = _take_apart(cache)
    return list(zip(_KEYS, parts, strict=True)), recording


def _put_together(parts: Iterable[Any], recording: bool) -> UniMatrixCache:
    cache = UniMatrixCache()
    for name, part in zip(_PARTS, parts, strict=True):
        setattr(cache, name, part)
    cache._recording = recording
    return cache


pytree.register_pytree_node(
    UniMatrixCache,
    _take_apart,
    _put_together,
    serialized_type_name="unimatrix.hf.UniMatrixCache",
    flatten_with_keys_fn=_take_apart_by_name,
)

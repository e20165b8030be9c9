"""One language model for every preset: embeddings, blocks over depth, a head, and a state to carry.

It knows ports (`unimatrix.mixers.part`) and no part: what a config names is built, asked in its place, and
what it gives goes where its port leads.

Letters: B batch, T time, D model width, V vocabulary, L depth.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from unimatrix.errors import UserError, shown
from unimatrix.mixers import Given, Part, Reading
from unimatrix.mixers.documents import positions_in_document
from unimatrix.mixers.initial import draw_weights
from unimatrix.mixers.layout import check_state, kept, name_for_export
from unimatrix.mixers.part import NOTHING, check_given, give, joined
from unimatrix.models.block import Block
from unimatrix.models.config import ModelConfig
from unimatrix.models.documents import check_keeps_documents
from unimatrix.models.input_checks import (
    check_embeddings,
    check_ids,
    check_positions,
    check_shapes,
    check_starts,
    may_look,
    positions_at,
)
from unimatrix.ops.internals import exporting, transforming
from unimatrix.ops.shapes import Stream, TokenIds, TokenMask, harmless, under_autocast

# Without gradients a recurrent model reads a long text in pieces of so many tokens (all rows together),
# carrying its state: what lies between two layers then stays in the processor's caches (docs/performance.md).
PIECE_TOKENS = 2048
# Of a stream whoever reads it gives so many tokens a call: enough for such pieces, and little to keep.
STREAM_PIECE = 16_384
# Then its logits too are made in pieces, of so many numbers; a head with fewer rows a piece is not.
HEAD_PIECE, MIN_HEAD_ROWS = 2**17, 256
MAX_COMPILED_PIECES = 16  # under torch.compile the pieces are unrolled; beyond so many the text is read whole


class LanguageModelState(NamedTuple):
    """Everything that a continuation needs; batch first in every tensor."""

    position: Tensor  # [B] int64, real tokens so far
    parts: dict[str, Any]  # of the parts that the model has once, by name; without those that keep none
    steps: tuple[dict[str, Any], ...]  # of each depth step, the same of its layer's parts


class _Text(NamedTuple):
    """A piece of what is read: ids or embeddings, what is no token, where documents begin."""

    ids: TokenIds | None
    embeds: Stream | None
    mask: TokenMask | None
    starts: Tensor | None


class Features(NamedTuple):
    """What `LanguageModel.features` makes of a text, and its `logits` reads."""

    hidden: Stream  # [B, T, D]
    state: LanguageModelState
    # votes and what was seen, by the part's path ("memory", "blocks.0.store") and depth step or None
    heard: dict[tuple[str, int | None], Given]
    # the stream behind the embeddings (and what parts add), behind each depth step but the last, and hidden
    streams: tuple[Stream, ...] | None


class LanguageModel(nn.Module):
    """Token ids in, logits and a state out; decoding is the same call on what comes next.

    The weights of `head` are the embedding's if the config's head is tied; a state dict holds them once.
    Weights of Linear and Embedding are drawn from N(0, init_std), biases are 0, norms start as the identity;
    exceptions stand with their parts. Parts are submodules under their names in the config.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = None
        if config.max_positions is not None:
            self.positions = nn.Embedding(config.max_positions, config.d_model)
        self._size = size = config.size
        self.blocks = nn.ModuleList(
            Block(layer, config.norm, size, config.dropout) for layer in config.layers
        )
        for name, part in config.parts.items():
            self.add_module(name, part.build(size))
        self.norm = config.norm.build(size)
        # its name is its kind's: the tied one's weights have another one than those of classes
        self._head_name, self._head_is_tied = config.head.attribute, config.head.tied
        self.add_module(self._head_name, config.head.build(size))
        self.tie_weights()
        self.dropout = nn.Dropout(config.dropout)
        # the depth step at which each layer is applied first
        self._first_step = {which: step for step, which in reversed(list(enumerate(config.order)))}
        self._parts = [
            (name, part.gives, type(self.get_submodule(name))) for name, part in config.parts.items()
        ]
        everything = config.all_parts.values()
        self._reading_ids = [name for name, part in config.all_parts.items() if "ids" in part.reads]
        self._wanted = frozenset[str]().union(*(part.reads for part in everything))
        self._renewed = any(part.renews for part in _parts_of(self))
        # whether a pass in training renews what follows the weights; of a batch in pieces the first one does
        self.renewing = True
        self._layout = self._state_layout()
        name_for_export(self._layout)
        # one that mixes positions and keeps no state knows of none but those of its call
        apart = [
            (f"layers.{which}.{name}", part)
            for step, which in enumerate(config.order)
            for name, part in config.layers[which].items()
            if part.role == "mix" and name not in self._layout.steps[step]
        ]
        # asked once: a config looks through all of its parts each time
        self._in_pieces = config.read_in_pieces and not apart
        places = [*apart, *((f"parts.{name}", config.parts[name]) for name in self._layout.parts)]
        for which, step in zip(config.order, self._layout.steps, strict=True):
            places += [(f"layers.{which}.{name}", config.layers[which][name]) for name in step]
        # whose state runs on from one document of a row into the next
        self.reads_on = [f"{path} ({part.kind})" for path, part in places if not part.documents]
        # of the last state: its position, and where it lies; in a list: to set a module's attribute is slow
        self._returned: list[tuple[Any, int]] = [(None, 0)]
        self.register_state_dict_post_hook(_leave_out_tied)
        self.register_load_state_dict_pre_hook(_add_tied)
        self.register_load_state_dict_post_hook(_tie_again)
        self._draw(self)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw fresh weights from torch's global generator, in the order of the modules."""
        self.init_module(self)

    @torch.no_grad()
    def init_module(self, module: nn.Module) -> None:
        """Draw the weights of one of the model's modules, and of all below it, as `init_weights` does."""
        for part in _parts_of(module):
            part.draw_first()
        self._draw(module)

    @torch.no_grad()
    def _draw(self, module: nn.Module) -> None:
        """Everything but what is drawn first, which a part draws when it is made."""
        for part in self.children() if module is self else (module,):
            if not (self._head_is_tied and part is self.output_head):  # its weights are the embedding's
                draw_weights(part, self.config.init_std)
        for part in _parts_of(module):
            part.draw_last()

    @property
    def output_head(self) -> Any:
        """The module that makes the logits."""
        return getattr(self, self._head_name)

    @property
    def tied(self) -> bool:
        """Whether the head's weights are the embedding's, as a tied head's are at first."""
        return self._head_is_tied and getattr(self.output_head, "weight", None) is self.embedding.weight

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether training keeps only what lies between blocks, and computes them again for the gradient."""
        return any(block.gradient_checkpointing for block in self.own_blocks())

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        for block in self.own_blocks():
            block.gradient_checkpointing = on

    def own_blocks(self) -> Iterator[Block]:
        """The blocks in their order, of such as have been wrapped what is inside."""
        return (module for module in self.blocks.modules() if isinstance(module, Block))

    def __setattr__(self, name: str, value: Any) -> None:
        # merging an adapter of one into the matrix that is both would silently change the other
        if name in ("embedding", "head") and hasattr(value, "base_layer") and self.tied:
            raise UserError(
                f"{name}: expected no adapter, as its weights are those of embedding and head alike, got a"
                f" {type(value).__module__.split('.')[0]} {type(value).__name__}; adapt other modules"
            )
        super().__setattr__(name, value)

    def tie_weights(self) -> None:
        """Make the embedding's weights the head's too, after one of them was replaced."""
        if self._head_is_tied:
            self.output_head.weight = self.embedding.weight

    def _apply(self, fn: Any, recurse: bool = True) -> "LanguageModel":
        tied = self.tied
        super()._apply(fn, recurse)  # such as to_empty, which gives every module parameters of its own
        if tied:
            self.tie_weights()
        return self

    def init_state(self, batch_size: int) -> LanguageModelState:
        """The state before the first token, the same as passing None."""
        if isinstance(batch_size, bool) or not hasattr(batch_size, "__index__") or batch_size < 0:
            raise UserError(f"batch_size: expected a whole number of at least 0, got {shown(batch_size)}")
        one = torch.zeros(batch_size, 0, dtype=torch.int64, device=self.embedding.weight.device)
        return self(one)[1]

    def forward(
        self,
        input_ids: TokenIds | None,
        state: LanguageModelState | None = None,
        *,
        mask: TokenMask | None = None,
        starts: Tensor | None = None,
        inputs_embeds: Stream | None = None,
        logits_at: int | Tensor | None = None,
    ) -> tuple[Tensor, LanguageModelState]:
        """Logits for the token after each position.

        Args:
            input_ids: [B, T] int64, any T >= 0.
            state: what an earlier call returned for the text before; None starts afresh. Not modified.
            mask: [B, T] bool; False positions (left padding) are no tokens: they leave every state as it
                is, count as no position, and their logits mean nothing.
            starts: [B, T] bool; True where a document begins: all that came before, the state too, is
                forgotten there, and positions count anew. Documents in one row are read as if each were
                alone (`unimatrix.models.documents` makes starts from what collators give).
            inputs_embeds: [B, T, D] in the place of input_ids, which is then None.
            logits_at: where logits are wanted, see `logits`; None is everywhere.

        Returns:
            logits [B, T, V] in the model's dtype; the state after the last position.

        Raises:
            UserError: a token id outside the vocabulary, more tokens than max_positions, a wrong shape,
                embeddings where a part reads the ids themselves.
        """
        features = self.features(input_ids, state, mask=mask, starts=starts, inputs_embeds=inputs_embeds)
        return self.logits(features, at=logits_at), features.state

    def features(
        self,
        input_ids: TokenIds | None,
        state: LanguageModelState | None = None,
        *,
        mask: TokenMask | None = None,
        starts: Tensor | None = None,
        inputs_embeds: Stream | None = None,
        keep_streams: bool = False,
    ) -> Features:
        """`forward` up to the head, which `logits` is; keep_streams: the stream between the blocks too."""
        given = self._check_inputs(input_ids, inputs_embeds, mask)
        check_starts(starts, given)
        if starts is not None and self.reads_on:
            check_keeps_documents(self, "starts")
        watched = not torch.compiler.is_compiling()
        if state is not None and watched and not self._is_own(state, given):
            self._check_state(state, given)
        # `init_state` reads no token
        if self.training and self._renewed and self.renewing and given.shape[1]:
            for part in _parts_of(self):
                part.renew()
        if mask is not None and _all_real(mask):
            mask = None  # nothing is padding: the faster paths apply
        if starts is not None and _none_begins(starts):
            starts = None
        features = self._read_text(_Text(input_ids, inputs_embeds, mask, starts), state, keep_streams)
        if watched and self._returned[0][0] is None:
            # once: what is found wrong here would later be found in a state that was copied or moved
            self._check_own(features.state, given)
        # what a transform hands in is of its level and dead behind it: a copy of the model would trip over it
        if watched and not transforming():
            self._returned[0] = (features.state.position, id(features.state))
        return features

    def _is_own(self, state: Any, given: Tensor) -> bool:
        """Whether it is the state that this model returned last, which decoding need not look into again."""
        # the tensor is held, so that no other state can lie where this one lay and have it too
        position, address = self._returned[0]
        return (
            id(state) == address
            and type(state) is LanguageModelState
            and state.position is position
            and position.shape[0] == given.shape[0]
            and position.device == given.device
        )

    def _read_text(self, text: "_Text", state: LanguageModelState | None, keep_streams: bool) -> Features:
        """`_read`, a long text in pieces where that pays."""
        given = text.embeds if text.ids is None else text.ids
        assert given is not None
        batch, length = given.shape[:2]
        piece = max(1, PIECE_TOKENS // max(1, batch))
        pieces_pay = not torch.is_grad_enabled() and self._in_pieces and not _one_graph_for_all_lengths()
        in_pieces = pieces_pay and length > piece
        if not in_pieces or (torch.compiler.is_compiling() and length > MAX_COMPILED_PIECES * piece):
            return self._read(text, state, keep_streams)
        parts: list[Features] = []
        for start in range(0, length, piece):
            here = _Text(*(None if whole is None else whole[:, start : start + piece] for whole in text))
            parts.append(self._read(here, parts[-1].state if parts else state, keep_streams))
        return _joined(parts)

    def logits(self, features: Features, *, at: int | Tensor | None = None) -> Tensor:
        """The logits of what `features` returned, [B, T, V] or of some positions alone.

        Args:
            at: None is all; a number n the last n positions, [B, n, V]; int64 [K] the same positions of every
                row, [B, K, V]; int64 [B, K] each row's own, [B, K, V]; bool [B, T] those that are True, row
                after row, [N, V]. Nothing is computed, and no memory taken, for the others.

        Raises:
            UserError: `at` is none of these, or a position is not there.
        """
        hidden, votes = features.hidden, _votes(features)
        if at is not None:
            choose = positions_at(at, hidden)
            hidden, votes = choose(hidden), _each(choose, votes)
        logits = self._head(hidden)
        return self._with_votes(logits, hidden, votes) if votes else logits

    def words(self, features: Features) -> Tensor:
        """The logits [B, T, V] that come from the head alone, without the parts' votes."""
        return self._head(features.hidden)

    @property
    def state_layout(self) -> LanguageModelState:
        """What a state of this model looks like, see `unimatrix.mixers.layout`."""
        return self._layout

    def _state_layout(self) -> LanguageModelState:
        """What a state of this model looks like, for `check_state`."""
        layers: list[Any] = [block.state_layout() for block in self.blocks]  # type: ignore[operator]
        parts = {name: self.get_submodule(name).state_layout() for name in self.config.parts}  # type: ignore[operator]
        return LanguageModelState(
            kept((), torch.int64),
            {name: layout for name, layout in parts.items() if layout is not None},
            tuple(layers[which] for which in self.config.order),
        )

    def _check_own(self, state: LanguageModelState, given: Tensor) -> None:
        try:
            self._check_state(state, given)
        except UserError as error:
            raise UserError(f"{error} (a part's state_layout() has to say what its give() returns)") from None

    def _check_state(self, state: Any, given: Tensor) -> None:
        check_state(state, self._layout, given, self.embedding.weight.dtype)

    def _check_inputs(
        self, input_ids: TokenIds | None, inputs_embeds: Stream | None, mask: TokenMask | None
    ) -> Tensor:
        """Whichever of the two is given, after refusing what the model cannot read."""
        if inputs_embeds is not None:
            if input_ids is not None:
                raise UserError("inputs_embeds: expected it in the place of input_ids, got both")
            if self._reading_ids:
                raise UserError(f"inputs_embeds: expected input_ids, which {self._reading_ids[0]} reads")
            check_embeddings(inputs_embeds, self.config.d_model, mask)
            return inputs_embeds
        check_shapes(input_ids, mask)
        assert input_ids is not None
        check_ids(input_ids, self.config.vocab_size, training=self.training)
        return input_ids

    def _with_votes(self, logits: Tensor, hidden: Stream, votes: dict[tuple[str, int | None], Any]) -> Tensor:
        """Logits with what the parts make of them; a long text's in pieces, as its logits."""
        for (path, _), given in votes.items():
            part: Any = self
            for name in path.split("."):  # get_submodule is not for every release's torch.compile
                part = getattr(part, name)
            in_place = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
            # under autocast votes may be of a wider dtype than the logits
            if not in_place or hidden.dim() < 3 or under_autocast(hidden.device):
                logits = part.vote(logits, hidden, given)
                continue
            # asked here alone: a graph for all batches may not ask how large one is
            piece = max(1, PIECE_TOKENS // max(1, len(hidden)))
            if hidden.shape[1] <= piece:
                logits = part.vote(logits, hidden, given)
                continue
            for start in range(0, hidden.shape[1], piece):
                here = slice(start, start + piece)
                some = _each(lambda x, here=here: x[:, here], given)
                logits[:, here] = part.vote(logits[:, here], hidden[:, here], some)
        return logits

    def _read(self, text: "_Text", state: LanguageModelState | None, keep_streams: bool) -> Features:
        """Everything but the head, of inputs that were checked."""
        # whatever stands at padding: not every part multiplies it by nothing, and NaN times nothing is NaN
        tokens = self.embedding(text.ids) if text.embeds is None else harmless(text.mask, text.embeds)
        x, position = self._embed(tokens, state, text)
        at = Reading(text.ids, tokens, text.mask, text.starts, self._wanted)
        again = at._replace(first=False)
        given, parts, heard = self._ask_parts(x, {} if state is None else state.parts, at)
        if given.add is not None:
            x = x + self.dropout(given.add)
            given = given._replace(add=None)
        steps: list[dict[str, Any]] = []
        streams = [x]
        for step, which in enumerate(self.config.order):
            if given.shift is not None:
                x = x + given.shift[step]
            block = self.blocks[which]
            before = {} if state is None else state.steps[step]
            x, after, given, told = block(x, before, at if self._first_step[which] == step else again, given)
            if given.scale is not None:
                x = x * given.scale
            for name, what in told.items():
                heard[f"blocks.{which}.{name}", step] = what
            steps.append(after)
            if keep_streams:
                streams.append(x)
        x = self.norm(x)
        if given.late is not None:
            x = x + self.dropout(given.late)
        state = LanguageModelState(position, parts, tuple(steps))
        return Features(x, state, heard, (*streams[:-1], x) if keep_streams else None)

    def _ask_parts(
        self, x: Stream, before: dict[str, Any], at: Reading
    ) -> tuple[Given, dict[str, Any], dict[tuple[str, int | None], Given]]:
        """What the parts that the model has once give, their states, and what the head and inspection get."""
        given, states, heard = NOTHING, {}, {}
        for name, gives, kind in self._parts:
            part: Any = self._modules[name]
            got, after = give(kind, part, x, before.get(name), at, given)
            check_given(name, got, gives)
            given = joined(given, got)
            if after is not None:
                states[name] = after
            if got.votes is not None or got.seen is not None:
                heard[name, None] = Given(votes=got.votes, seen=got.seen)
        return given, states, heard

    def _head(self, x: Stream) -> Tensor:
        """Logits of [..., D]; without gradients in pieces of rows: one large product misses the cache."""
        head, piece = self._products_to_logits, HEAD_PIECE // self.config.vocab_size
        if torch.is_grad_enabled() or piece < MIN_HEAD_ROWS or _one_graph_for_all_lengths():
            return head(x)
        if x.numel() <= PIECE_TOKENS * x.shape[-1] or not self._head_is_tied:
            return head(x)
        rows = x.flatten(0, -2)
        if torch.compiler.is_compiling():
            return torch.cat([head(p) for p in rows.split(PIECE_TOKENS)]).unflatten(0, x.shape[:-1])
        first = head(rows[:piece])
        logits = first.new_empty(len(rows), first.shape[-1])
        logits[:piece] = first
        for start in range(piece, len(rows), piece):
            logits[start : start + piece] = head(rows[start : start + piece])
        return logits.unflatten(0, x.shape[:-1])

    def _products_to_logits(self, x: Stream) -> Tensor:
        return self.config.head.logits(self.output_head(x), self._size)

    def _embed(
        self, tokens: Stream, state: LanguageModelState | None, text: "_Text"
    ) -> tuple[Stream, Tensor]:
        """Token and position embeddings [B, T, D], and the number of real tokens so far [B]."""
        batch, length, _ = tokens.shape
        mask, starts = text.mask, text.starts
        before = (
            torch.zeros(batch, dtype=torch.int64, device=tokens.device) if state is None else state.position
        )
        if self.positions is None and starts is None:
            return self.dropout(tokens), before + (length if mask is None else mask.sum(1))
        positions, end = positions_in_document(mask, starts, before, length)
        if self.positions is None or length == 0:
            return self.dropout(tokens), end
        fresh = state is None and mask is None
        last = end if starts is None else positions.amax(1) + 1
        check_positions(self.config.max_positions, length, last, fresh=fresh and starts is None)
        if fresh and starts is None:
            positions = torch.arange(length, device=tokens.device)  # of every row the same
        # padding before the first token would be position -1; its embedding is never used
        x = tokens + self.positions(positions if mask is None else positions.clamp_min(0))
        return self.dropout(x), end


def parameter_count(model: nn.Module) -> int:
    """Number of trainable scalars; a weight shared across depth counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _leave_out_tied(model: LanguageModel, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    """A state dict holds the matrix that is both embedding and head once, under the embedding's name."""
    if model.tied:
        state_dict.pop(f"{prefix}{model._head_name}.weight", None)


def _add_tied(model: LanguageModel, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Where a state dict holds it once, it is both; two that differ are not: one would be lost."""
    if model.tied and f"{prefix}embedding.weight" in state_dict:
        name, weight = f"{prefix}{model._head_name}.weight", state_dict[f"{prefix}embedding.weight"]
        head = state_dict.setdefault(name, weight)
        alike = (weight.shape, weight.dtype, weight.device) == (head.shape, head.dtype, head.device)
        # NaN is told by those who look for it
        same = (
            torch.allclose(head, weight, 0.0, 0.0, equal_nan=True) if alike and not weight.is_meta else True
        )
        if not same:
            raise UserError(f"{name}: expected what embedding.weight holds, as both are one here, got others")


def _tie_again(model: LanguageModel, _: Any) -> None:
    """Loading with assign=True makes two parameters of one matrix."""
    if model._head_is_tied and not model.tied:
        head = getattr(model.output_head, "weight", None)
        if isinstance(head, Tensor) and head.data_ptr() == model.embedding.weight.data_ptr():
            model.tie_weights()


def _parts_of(module: nn.Module) -> list[Part]:
    return [part for part in module.modules() if isinstance(part, Part)]


def _votes(features: Features) -> dict[tuple[str, int | None], Any]:
    return {key: given.votes for key, given in features.heard.items() if given.votes is not None}


def _each(function: Callable[..., Tensor], *trees: Any) -> Any:
    """A tree of what a function makes of each tensor, or of those that stand at the same place."""
    return pytree.tree_map(lambda *xs: None if xs[0] is None else function(*xs), *trees)


def _joined(pieces: list[Features]) -> Features:
    """The features of a text from those of its pieces."""
    for piece in pieces:
        if differ := piece.heard.keys() ^ pieces[0].heard.keys():
            path = min(path for path, _ in differ)
            raise UserError(f"{path}: expected votes (or seen) of every piece of a text or of none, got some")
    heard = {
        key: _each(lambda *some: torch.cat(some, dim=1), *(piece.heard[key] for piece in pieces))
        for key in pieces[0].heard
    }
    streams = None
    if pieces[0].streams is not None:
        whole = zip(*(piece.streams or () for piece in pieces), strict=True)
        streams = tuple(torch.cat(stream, dim=1) for stream in whole)
    hidden = torch.cat([piece.hidden for piece in pieces], dim=1) if streams is None else streams[-1]
    return Features(hidden, pieces[-1].state, heard, streams)


def _one_graph_for_all_lengths() -> bool:
    """Whether this is torch.export, where a question about the length would bind the graph to the answer."""
    return exporting()


def _none_begins(starts: Tensor) -> bool:
    """The same of documents: whether none begins, where a look is free."""
    return may_look(starts) and not bool(starts.any())


def _all_real(mask: TokenMask) -> bool:
    """Whether a look at the mask finds no padding; off the CPU a look would cost a synchronisation: False."""
    return may_look(mask) and bool(mask.all())

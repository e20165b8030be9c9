"""One language model for every preset: embeddings, blocks over depth, a tied head, and a state to carry.

Letters: B batch, T time, D model width, V vocabulary, L depth.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unimatrix.errors import UserError
from unimatrix.mixers import (
    AssociativeState,
    CausalAttention,
    ConvolutionState,
    DeepEmbed,
    LocalConvolution,
    PreviousTokenRouting,
    Recalled,
    RecurrentFFNState,
    SlotMemory,
    SlotMemoryMixerState,
    SpectralLinear,
    TripleLatentMixer,
)
from unimatrix.mixers.initial import draw_weights
from unimatrix.mixers.layout import check_state, kept
from unimatrix.mixers.routing import RoutingState
from unimatrix.mixers.spectral import SameEachTime
from unimatrix.models.block import Block, BlockState
from unimatrix.models.config import AssociativeMemoryConfig, ModelConfig, SlotMemoryConfig
from unimatrix.models.input_checks import (
    check_embeddings,
    check_ids,
    check_positions,
    check_shapes,
    positions_at,
)
from unimatrix.ops import SlotReads
from unimatrix.ops.shapes import Stream, TokenIds, TokenMask

# Without gradients a recurrent model reads a long text in pieces of so many tokens (all rows together),
# carrying its state: what lies between two layers then stays in the processor's caches (docs/performance.md).
PIECE_TOKENS = 2048
# Then its logits too are made in pieces, of so many numbers; a head with fewer rows a piece is not.
HEAD_PIECE, MIN_HEAD_ROWS = 2**17, 256
MAX_COMPILED_PIECES = 16  # under torch.compile the pieces are unrolled; beyond so many the text is read whole


class LanguageModelState(NamedTuple):
    """Everything that a continuation needs; batch first in every tensor."""

    position: Tensor  # [B] int64, real tokens so far
    layers: tuple[Any, ...]  # one mixer state per depth step
    routing: RoutingState | None
    memory: SlotMemoryMixerState | tuple[AssociativeState, ...] | None = None  # the model's, or one per step
    convolution: ConvolutionState | None = None
    feed_forward: tuple[RecurrentFFNState, ...] | None = None  # one per depth step, if it is recurrent


class Features(NamedTuple):
    """What `LanguageModel.features` makes of a text, and its `logits` reads."""

    hidden: Stream  # [B, T, D]
    state: LanguageModelState
    recalled: Recalled | None  # by the slot memory
    # the stream behind the embeddings (and a slot memory), behind each depth step but the last, and hidden
    streams: tuple[Stream, ...] | None


class Trace(NamedTuple):
    """A forward pass with its parts: the model's logits are words + votes."""

    words: Tensor  # [B, T, V], the logits that come from the vocabulary's own head
    votes: Tensor | None  # [B, T, V], what the pointer adds; None without one
    recalled: Recalled
    state: LanguageModelState


class LanguageModel(nn.Module):
    """Token ids in, logits and a state out; decoding is the same call on what comes next.

    The weights of `head` are the embedding's, unless the config names classes (`class_head`); a state dict
    holds them once. Weights of Linear and Embedding are drawn from N(0, init_std), biases are 0, LayerNorms
    start as the identity; exceptions are the configs' qkv_init and write_gate_bias.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = None
        if config.max_positions is not None:
            self.positions = nn.Embedding(config.max_positions, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(1 if config.shared_depth else config.depth))
        self.routing = None
        if config.routing is not None:
            self.routing = PreviousTokenRouting(config.vocab_size, config.d_model)
        self.deep_embed = None
        if config.deep_embed is not None:
            self.deep_embed = DeepEmbed(config.vocab_size, config.deep_embed.rank, config.d_model)
        self.steps = nn.Embedding(config.depth, config.d_model) if config.step_embeddings else None
        self.memory = _build_slot_memory(config)
        self.convolution = None
        if config.convolution is not None:
            self.convolution = LocalConvolution(config.d_model, config.convolution.kernel_size)
        self.norm = nn.LayerNorm(config.d_model)
        self.class_head = self.head = None
        if config.head is not None:
            self.class_head = nn.Linear(config.d_model, config.head.num_classes)
        else:
            # weights of its own would only be drawn to be thrown away
            self.head = nn.Linear(config.d_model, config.vocab_size, bias=False, device="meta")
            self.tie_weights()
        self.dropout = nn.Dropout(config.dropout)
        # whether training keeps only what lies between the blocks, and computes each again for its gradient
        self.gradient_checkpointing = False
        self._layout: Any = None  # of a state, described when the first one comes
        # of the last state: its position, and where it lies; a list, as setting a module's attribute is slow
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
        for part in module.modules():
            if isinstance(part, TripleLatentMixer):
                part.init_addresses()
        self._draw(module)

    @torch.no_grad()
    def _draw(self, module: nn.Module) -> None:
        """Everything but the addresses of slots, which a mixer draws when it is made."""
        config = self.config
        for part in self.children() if module is self else (module,):
            if part is not self.head:  # its weights are the embedding's
                draw_weights(part, config.init_std)
        xavier = getattr(config.mixer, "qkv_init", "normal") == "xavier"
        for part in module.modules():
            if isinstance(part, CausalAttention) and xavier:
                nn.init.xavier_uniform_(part.qkv.weight)
            elif isinstance(part, SlotMemory) and part.write_gate is not None:
                assert isinstance(config.memory, SlotMemoryConfig)
                nn.init.constant_(part.write_gate.bias, config.memory.write_gate_bias)

    @property
    def tied(self) -> bool:
        """Whether the head's weights are the embedding's, as they are at first."""
        return self.head is not None and getattr(self.head, "weight", None) is self.embedding.weight

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
        if self.head is not None:
            self.head.weight = self.embedding.weight

    def _apply(self, fn: Any, recurse: bool = True) -> "LanguageModel":
        tied = self.tied
        super()._apply(fn, recurse)  # such as to_empty, which gives every module parameters of its own
        if tied:
            self.tie_weights()
        return self

    def init_state(self, batch_size: int) -> LanguageModelState:
        """The state before the first token, the same as passing None."""
        one = torch.zeros(batch_size, 0, dtype=torch.int64, device=self.embedding.weight.device)
        return self(one)[1]

    def forward(
        self,
        input_ids: TokenIds | None,
        state: LanguageModelState | None = None,
        *,
        mask: TokenMask | None = None,
        inputs_embeds: Stream | None = None,
        logits_at: int | Tensor | None = None,
    ) -> tuple[Tensor, LanguageModelState]:
        """Logits for the token after each position.

        Args:
            input_ids: [B, T] int64, any T >= 0.
            state: what an earlier call returned for the text before; None starts afresh. Not modified.
            mask: [B, T] bool; False positions (left padding) are no tokens: they leave every state as it
                is, count as no position, and their logits mean nothing.
            inputs_embeds: [B, T, D] in the place of input_ids, which is then None.
            logits_at: where logits are wanted, see `logits`; None is everywhere.

        Returns:
            logits [B, T, V] in the model's dtype; the state after the last position.

        Raises:
            UserError: a token id outside the vocabulary, more tokens than max_positions, a wrong shape,
                embeddings where a part reads the ids themselves.
        """
        features = self.features(input_ids, state, mask=mask, inputs_embeds=inputs_embeds)
        return self.logits(features, at=logits_at), features.state

    def features(
        self,
        input_ids: TokenIds | None,
        state: LanguageModelState | None = None,
        *,
        mask: TokenMask | None = None,
        inputs_embeds: Stream | None = None,
        keep_streams: bool = False,
    ) -> Features:
        """`forward` up to the head, which `logits` is; keep_streams: the stream between the blocks too."""
        given = self._check_inputs(input_ids, inputs_embeds, mask)
        watched = not torch.compiler.is_compiling()
        if state is not None and watched and not self._is_own(state, given):
            self._check_state(state, given)
        self._renew()
        if mask is not None and _all_real(mask):
            mask = None  # nothing is padding: the faster paths apply
        features = self._read_text(input_ids, inputs_embeds, state, mask, keep_streams)
        if watched:
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

    def _read_text(
        self,
        input_ids: TokenIds | None,
        inputs_embeds: Stream | None,
        state: LanguageModelState | None,
        mask: TokenMask | None,
        keep_streams: bool,
    ) -> Features:
        """`_read`, a long text in pieces where that pays."""
        given = inputs_embeds if input_ids is None else input_ids
        assert given is not None
        batch, length = given.shape[:2]
        piece = max(1, PIECE_TOKENS // max(1, batch))
        pieces_pay = (
            not torch.is_grad_enabled() and self.config.recurrent and not _one_graph_for_all_lengths()
        )
        in_pieces = pieces_pay and length > piece
        if not in_pieces or (torch.compiler.is_compiling() and length > MAX_COMPILED_PIECES * piece):
            return self._read(input_ids, inputs_embeds, state, mask, keep_streams)
        parts: list[Features] = []
        for start in range(0, length, piece):
            ids, embeds, real = (
                None if whole is None else whole[:, start : start + piece]
                for whole in (input_ids, inputs_embeds, mask)
            )
            parts.append(self._read(ids, embeds, parts[-1].state if parts else state, real, keep_streams))
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
        hidden, reads = features.hidden, None
        if self.memory is not None and self.memory.pointer_gate is not None:
            assert features.recalled is not None
            reads = features.recalled.reads
        if at is not None:
            choose = positions_at(at, hidden)
            hidden = choose(hidden)
            # the votes need no more of what was read than the weights and the ids
            reads = (
                None
                if reads is None
                else reads._replace(weights=choose(reads.weights), token_ids=choose(reads.token_ids))
            )
        logits = self._head(hidden)
        return logits if reads is None else self._with_votes(logits, hidden, reads)

    def trace(self, input_ids: TokenIds, state: LanguageModelState | None = None) -> Trace:
        """A forward pass of [B, T] ids that also tells what the slot memory did in it.

        Raises:
            UserError: the model has no slot memory, or what `forward` refuses.
        """
        if self.memory is None:
            raise UserError("trace: expected a model with a slot memory (unimatrix-sparse-pointer), got none")
        self._check_inputs(input_ids, None, None)
        if state is not None:
            self._check_state(state, input_ids)
        self._renew()
        hidden, state, recalled, _ = self._read(input_ids, None, state, None, False)
        assert recalled is not None
        words, votes = self._head(hidden), None
        if self.memory.pointer_gate is not None:
            votes = self.memory.votes(hidden, recalled.reads, self.config.vocab_size)
        return Trace(words, votes, recalled, state)

    def _state_layout(self) -> Any:
        """What a state of this model looks like, for `check_state`."""
        config = self.config
        blocks: list[Any] = [*self.blocks] * (config.depth if config.shared_depth else 1)
        parts = [block.state_layout() for block in blocks]
        memory = None if self.memory is None else self.memory.state_layout()
        if isinstance(config.memory, AssociativeMemoryConfig):
            memory = tuple(part.associations for part in parts)
        return LanguageModelState(
            kept((), torch.int64),
            tuple(part.mixer for part in parts),
            None if self.routing is None else self.routing.state_layout(),
            memory,
            None if self.convolution is None else self.convolution.state_layout(),
            tuple(part.feed_forward for part in parts if part.feed_forward is not None) or None,
        )

    def _check_state(self, state: Any, given: Tensor) -> None:
        if self._layout is None:
            self._layout = self._state_layout()
        check_state(state, self._layout, given, self.embedding.weight.dtype)

    def _check_inputs(
        self, input_ids: TokenIds | None, inputs_embeds: Stream | None, mask: TokenMask | None
    ) -> Tensor:
        """Whichever of the two is given, after refusing what the model cannot read."""
        if inputs_embeds is not None:
            if input_ids is not None:
                raise UserError("inputs_embeds: expected it in the place of input_ids, got both")
            for part, reads_ids in (
                ("routing", self.routing),
                ("DeepEmbed", self.deep_embed),
                ("slot memory", self.memory),
            ):
                if reads_ids is not None:
                    raise UserError(f"inputs_embeds: expected input_ids, which the model's {part} reads")
            check_embeddings(inputs_embeds, self.config.d_model, mask)
            return inputs_embeds
        check_shapes(input_ids, mask)
        assert input_ids is not None
        check_ids(input_ids, self.config.vocab_size, training=self.training)
        return input_ids

    def _renew(self) -> None:
        """In training, one power iteration for each spectrally normalised matrix, used once or often."""
        if self.training and getattr(self.config.mixer, "spectral_norm", False):
            for module in self.modules():
                if isinstance(module, SpectralLinear):
                    module.renew()

    def _with_votes(self, logits: Tensor, hidden: Stream, reads: SlotReads) -> Tensor:
        """Logits plus what the pointer adds to them; a long text's in pieces, as its logits."""
        assert self.memory is not None
        vocab_size = self.config.vocab_size
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or hidden.dim() < 3:
            return logits + self.memory.votes(hidden, reads, vocab_size)
        piece = max(1, PIECE_TOKENS // max(1, len(hidden)))
        for start in range(0, hidden.shape[1], piece):
            here = slice(start, start + piece)
            some = SlotReads(*(part[:, here] for part in reads))
            logits[:, here] += self.memory.votes(hidden[:, here], some, vocab_size)
        return logits

    def _read(
        self,
        input_ids: TokenIds | None,
        inputs_embeds: Stream | None,
        state: LanguageModelState | None,
        mask: TokenMask | None,
        keep_streams: bool,
    ) -> Features:
        """Everything but the head, of inputs that were checked."""
        if inputs_embeds is None:
            assert input_ids is not None
            tokens = self.embedding(input_ids)
        else:
            tokens = inputs_embeds
        x, position = self._embed(tokens, state, mask)
        context = routing_state = recalled = None
        if self.routing is not None:
            before = None if state is None else state.routing
            context, routing_state = self.routing(input_ids, before, mask=mask)
        memory: Any = None if state is None else state.memory
        local = local_state = None
        if self.convolution is not None:
            before = None if state is None else state.convolution
            local, local_state = self.convolution(x, before, mask=mask)
        if self.memory is not None:
            recalled, memory = self.memory(tokens, input_ids, memory, mask=mask)
            x = x + self.dropout(recalled.context)
        modulation = None if self.deep_embed is None else self.deep_embed(input_ids)
        added = None if self.steps is None else self.steps(torch.arange(self.config.depth, device=x.device))
        steps: list[BlockState] = []
        streams = [x]
        for step in range(self.config.depth):
            if added is not None:
                x = x + added[step]
            block = self.blocks[0 if self.config.shared_depth else step]
            before = self._block_state(state, step)
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                again = SameEachTime(block)
                x, after = checkpoint(again, x, before, mask=mask, context=context, use_reentrant=False)
            else:
                x, after = block(x, before, mask=mask, context=context)
            if modulation is not None:
                x = x * modulation
            steps.append(after)
            if keep_streams:
                streams.append(x)
        if isinstance(self.config.memory, AssociativeMemoryConfig):
            memory = tuple(after.associations for after in steps)
        x = self.norm(x)
        if local is not None:
            # behind the last LayerNorm, which would weigh it down to the stream's scale (docs/fidelity.md)
            x = x + self.dropout(local)
        fed = tuple(after.feed_forward for after in steps if after.feed_forward is not None) or None
        layers = tuple(after.mixer for after in steps)
        state = LanguageModelState(position, layers, routing_state, memory, local_state, fed)
        return Features(x, state, recalled, (*streams[:-1], x) if keep_streams else None)

    def _block_state(self, state: LanguageModelState | None, step: int) -> BlockState:
        """What the model's state holds for one depth step."""
        if state is None:
            return BlockState()
        beside: Any = state.memory if isinstance(self.config.memory, AssociativeMemoryConfig) else None
        return BlockState(
            state.layers[step],
            None if beside is None else beside[step],
            None if state.feed_forward is None else state.feed_forward[step],
        )

    def _head(self, x: Stream) -> Tensor:
        """Logits of [..., D]; without gradients in pieces of rows: one large product misses the cache."""
        if self.class_head is not None and self.config.head is not None:
            first, classes = self.config.head.first_token, self.class_head(x)
            after = self.config.vocab_size - first - classes.shape[-1]
            return F.pad(classes, (first, after), value=-torch.inf)
        assert self.head is not None
        rows, piece = x.flatten(0, -2), HEAD_PIECE // self.config.vocab_size
        if torch.is_grad_enabled() or piece < MIN_HEAD_ROWS or _one_graph_for_all_lengths():
            return self.head(x)
        if rows.shape[0] <= PIECE_TOKENS:
            return self.head(x)
        if torch.compiler.is_compiling():
            return torch.cat([self.head(p) for p in rows.split(PIECE_TOKENS)]).unflatten(0, x.shape[:-1])
        first = self.head(rows[:piece])
        logits = first.new_empty(len(rows), first.shape[-1])
        logits[:piece] = first
        for start in range(piece, len(rows), piece):
            logits[start : start + piece] = self.head(rows[start : start + piece])
        return logits.unflatten(0, x.shape[:-1])

    def _embed(
        self, tokens: Stream, state: LanguageModelState | None, mask: TokenMask | None
    ) -> tuple[Stream, Tensor]:
        """Token and position embeddings [B, T, D], and the number of real tokens so far [B]."""
        batch, length, _ = tokens.shape
        x = tokens
        start = torch.zeros(batch, dtype=torch.int64, device=x.device) if state is None else state.position
        end = start + (length if mask is None else mask.sum(1))
        if self.positions is not None and length > 0:
            fresh = state is None and mask is None
            check_positions(self.config.max_positions, length, end, fresh=fresh)
            if state is None and mask is None:
                x = x + self.positions(torch.arange(length, device=x.device))
            elif mask is None:
                x = x + self.positions(start[:, None] + torch.arange(length, device=x.device))
            else:
                # padding before the first token would be position -1; its embedding is never used
                x = x + self.positions((start[:, None] + mask.cumsum(1) - 1).clamp_min(0))
        return self.dropout(x), end


def parameter_count(model: nn.Module) -> int:
    """Number of trainable scalars; a weight shared across depth counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _leave_out_tied(model: LanguageModel, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    """A state dict holds the matrix that is both embedding and head once, under the embedding's name."""
    if model.tied:
        state_dict.pop(f"{prefix}head.weight", None)


def _add_tied(model: LanguageModel, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Where a state dict holds it once, it is both."""
    if model.tied and f"{prefix}embedding.weight" in state_dict:
        state_dict.setdefault(f"{prefix}head.weight", state_dict[f"{prefix}embedding.weight"])


def _tie_again(model: LanguageModel, _: Any) -> None:
    """Loading with assign=True makes two parameters of one matrix."""
    if model.head is not None and not model.tied:
        head = getattr(model.head, "weight", None)
        if isinstance(head, Tensor) and head.data_ptr() == model.embedding.weight.data_ptr():
            model.tie_weights()


def _joined(parts: list[Features]) -> Features:
    """The features of a text from those of its pieces."""
    recalled = streams = None
    whole = [part.recalled for part in parts if part.recalled is not None]
    if whole:
        reads = SlotReads(
            *(torch.cat(pieces, dim=1) for pieces in zip(*(r.reads for r in whole), strict=True))
        )
        recalled = Recalled(
            torch.cat([r.context for r in whole], dim=1), reads, torch.cat([r.strength for r in whole], dim=1)
        )
    if parts[0].streams is not None:
        pieces = zip(*(part.streams or () for part in parts), strict=True)
        streams = tuple(torch.cat(stream, dim=1) for stream in pieces)
    hidden = torch.cat([part.hidden for part in parts], dim=1) if streams is None else streams[-1]
    return Features(hidden, parts[-1].state, recalled, streams)


def _one_graph_for_all_lengths() -> bool:
    """Whether this is torch.export, where a question about the length would bind the graph to the answer."""
    return torch.compiler.is_exporting()


def _all_real(mask: TokenMask) -> bool:
    """Whether a look at the mask finds no padding; off the CPU a look would cost a synchronisation: False."""
    return not torch.compiler.is_compiling() and mask.device.type == "cpu" and bool(mask.all())


def _build_slot_memory(config: ModelConfig) -> SlotMemory | None:
    memory = config.memory
    if not isinstance(memory, SlotMemoryConfig):
        return None
    return SlotMemory(
        config.d_model,
        num_slots=memory.num_slots,
        top_k=memory.top_k,
        width=memory.width,
        match_threshold=memory.match_threshold,
        pointer=memory.pointer,
        write_gate=memory.write_gate,
        backend=memory.backend,
    )

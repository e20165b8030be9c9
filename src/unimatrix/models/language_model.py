"""One language model for every preset: embeddings, blocks over depth, a tied head, and a state to carry.

Letters: B batch, T time, D model width, V vocabulary, L depth.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatrix.errors import UserError
from unimatrix.mixers import (
    MLP,
    AssociativeMemory,
    AssociativeState,
    CausalAttention,
    ConvolutionState,
    DeepEmbed,
    LocalConvolution,
    MatrixStateMixer,
    PreviousTokenRouting,
    Recalled,
    RecurrentFFN,
    RecurrentFFNState,
    SlotMemory,
    SlotMemoryMixerState,
    TripleLatentMixer,
)
from unimatrix.mixers.initial import draw_weights
from unimatrix.mixers.routing import RoutingState
from unimatrix.mixers.spectral import SpectralLinear
from unimatrix.models.config import (
    AssociativeMemoryConfig,
    AttentionConfig,
    MatrixStateConfig,
    ModelConfig,
    RecurrentFFNConfig,
    SlotMemoryConfig,
    TripleLatentConfig,
)
from unimatrix.models.input_checks import check_ids, check_positions, check_shapes
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


class BlockState(NamedTuple):
    """What one depth step carries; None starts afresh, or there is nothing to carry."""

    mixer: Any = None
    associations: AssociativeState | None = None
    feed_forward: RecurrentFFNState | None = None


class Trace(NamedTuple):
    """A forward pass with its parts: the model's logits are words + votes."""

    words: Tensor  # [B, T, V], the logits that come from the vocabulary's own head
    votes: Tensor | None  # [B, T, V], what the pointer adds; None without one
    recalled: Recalled
    state: LanguageModelState


class Block(nn.Module):
    """x += mixer(LayerNorm(x)), then x += feed_forward(LayerNorm(x)); dropout on what is added."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mixer_norm = nn.LayerNorm(config.d_model)
        self.mixer = _build_mixer(config)
        self.feed_forward_norm = nn.LayerNorm(config.d_model)
        self.feed_forward = _build_feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)
        self.associations = None
        if isinstance(config.memory, AssociativeMemoryConfig):
            self.associations = AssociativeMemory(config.d_model, temperature=config.memory.temperature)

    def forward(
        self, x: Stream, state: BlockState, *, mask: TokenMask | None, context: Stream | None
    ) -> tuple[Stream, BlockState]:
        """[B, T, D] to [B, T, D] and the next state."""
        u = self.mixer_norm(x)
        if context is None:
            y, mixed = self.mixer(u, state.mixer, mask=mask)
        else:
            y, mixed = self.mixer(u, state.mixer, mask=mask, context=context)
        associations = None
        if self.associations is not None:
            retrieved, associations = self.associations(u, state.associations, mask=mask)
            y = y + retrieved
        x = x + self.dropout(y)
        u = self.feed_forward_norm(x)
        fed = None
        if isinstance(self.feed_forward, RecurrentFFN):
            y, fed = self.feed_forward(u, state.feed_forward, mask=mask)
        else:
            y = self.feed_forward(u)
        return x + self.dropout(y), BlockState(mixed, associations, fed)


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
        self.register_state_dict_post_hook(_leave_out_tied)
        self.register_load_state_dict_pre_hook(_add_tied)
        self.register_load_state_dict_post_hook(_tie_again)
        self._draw(self)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw fresh weights from torch's global generator, in the order of the modules."""
        for module in self.modules():
            if isinstance(module, TripleLatentMixer):
                module.init_addresses()
        self._draw(self)

    @torch.no_grad()
    def init_module(self, module: nn.Module) -> None:
        """Draw the weights of one of the model's modules, and of all below it, as `init_weights` does."""
        if isinstance(module, TripleLatentMixer):
            module.init_addresses()
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
        input_ids: TokenIds,
        state: LanguageModelState | None = None,
        *,
        mask: TokenMask | None = None,
    ) -> tuple[Tensor, LanguageModelState]:
        """Logits for the token after each position.

        Args:
            input_ids: [B, T] int64, any T >= 0.
            state: what an earlier call returned for the text before; None starts afresh. Not modified.
            mask: [B, T] bool; False positions (left padding) are no tokens: they leave every state as it
                is, count as no position, and their logits mean nothing.

        Returns:
            logits [B, T, V] in the model's dtype; the state after the last position.

        Raises:
            UserError: a token id outside the vocabulary, more tokens than max_positions, a wrong shape.
        """
        check_shapes(input_ids, mask)
        check_ids(input_ids, self.config.vocab_size, training=self.training)
        self._renew()
        if mask is not None and _all_real(mask):
            mask = None  # nothing is padding: the faster paths apply
        batch, length = input_ids.shape
        piece = max(1, PIECE_TOKENS // max(1, batch))
        in_pieces = length > piece and not torch.is_grad_enabled() and self.config.recurrent
        if not in_pieces or (torch.compiler.is_compiling() and length > MAX_COMPILED_PIECES * piece):
            x, recalled, state = self._hidden(input_ids, state, mask)
            return self._with_votes(self._head(x), [(x, recalled)]), state
        parts = []
        for start in range(0, length, piece):
            here = slice(start, start + piece)
            x, recalled, state = self._hidden(
                input_ids[:, here], state, None if mask is None else mask[:, here]
            )
            parts.append((x, recalled))
        assert state is not None
        return self._with_votes(self._head(torch.cat([x for x, _ in parts], dim=1)), parts), state

    def trace(self, input_ids: TokenIds, state: LanguageModelState | None = None) -> Trace:
        """A forward pass of [B, T] ids that also tells what the slot memory did in it.

        Raises:
            UserError: the model has no slot memory, or what `forward` refuses.
        """
        if self.memory is None:
            raise UserError("trace: expected a model with a slot memory (unimatrix-sparse-pointer), got none")
        check_ids(input_ids, self.config.vocab_size, training=self.training)
        self._renew()
        x, recalled, state = self._hidden(input_ids, state, None)
        assert recalled is not None
        words, votes = self._head(x), None
        if self.memory.pointer_gate is not None:
            votes = self.memory.votes(x, recalled.reads, self.config.vocab_size)
        return Trace(words, votes, recalled, state)

    def _renew(self) -> None:
        """In training, one power iteration for each spectrally normalised matrix, used once or often."""
        if self.training and getattr(self.config.mixer, "spectral_norm", False):
            for module in self.modules():
                if isinstance(module, SpectralLinear):
                    module.renew()

    def _with_votes(self, logits: Tensor, parts: list[tuple[Stream, Recalled | None]]) -> Tensor:
        """Logits plus what the pointer adds to them."""
        if self.memory is None or self.memory.pointer_gate is None:
            return logits
        vocab_size = self.config.vocab_size
        votes = [self.memory.votes(x, part.reads, vocab_size) for x, part in parts if part is not None]
        return logits + (votes[0] if len(votes) == 1 else torch.cat(votes, dim=1))

    def _hidden(
        self, input_ids: TokenIds, state: LanguageModelState | None, mask: TokenMask | None
    ) -> tuple[Stream, Recalled | None, LanguageModelState]:
        """Everything but the head: what it reads [B, T, D], what the slot memory recalled, the next state."""
        tokens = self.embedding(input_ids)
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
        for step in range(self.config.depth):
            if added is not None:
                x = x + added[step]
            block = self.blocks[0 if self.config.shared_depth else step]
            x, after = block(x, self._block_state(state, step), mask=mask, context=context)
            if modulation is not None:
                x = x * modulation
            steps.append(after)
        if isinstance(self.config.memory, AssociativeMemoryConfig):
            memory = tuple(after.associations for after in steps)
        x = self.norm(x)
        if local is not None:
            # behind the last LayerNorm, which would weigh it down to the stream's scale (docs/fidelity.md)
            x = x + self.dropout(local)
        fed = tuple(after.feed_forward for after in steps if after.feed_forward is not None) or None
        layers = tuple(after.mixer for after in steps)
        state = LanguageModelState(position, layers, routing_state, memory, local_state, fed)
        return x, recalled, state

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
        """Logits [B, T, V]; without gradients in pieces of rows, since one large product misses the cache."""
        if self.class_head is not None and self.config.head is not None:
            first, classes = self.config.head.first_token, self.class_head(x)
            after = self.config.vocab_size - first - classes.shape[-1]
            return F.pad(classes, (first, after), value=-torch.inf)
        assert self.head is not None
        rows, piece = x.flatten(0, 1), HEAD_PIECE // self.config.vocab_size
        if torch.is_grad_enabled() or piece < MIN_HEAD_ROWS or len(rows) <= PIECE_TOKENS:
            return self.head(x)
        if torch.compiler.is_compiling():
            return torch.cat([self.head(p) for p in rows.split(PIECE_TOKENS)]).unflatten(0, x.shape[:2])
        first = self.head(rows[:piece])
        logits = first.new_empty(len(rows), first.shape[-1])
        logits[:piece] = first
        for start in range(piece, len(rows), piece):
            logits[start : start + piece] = self.head(rows[start : start + piece])
        return logits.unflatten(0, x.shape[:2])

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


def _all_real(mask: TokenMask) -> bool:
    """Whether a look at the mask finds no padding; off the CPU a look would cost a synchronisation: False."""
    return not torch.compiler.is_compiling() and mask.device.type == "cpu" and bool(mask.all())


def _build_mixer(config: ModelConfig) -> nn.Module:
    mixer = config.mixer
    if isinstance(mixer, AttentionConfig):
        return CausalAttention(config.d_model, mixer.num_heads)
    if isinstance(mixer, TripleLatentConfig):
        return TripleLatentMixer(
            config.d_model,
            mixer.num_heads,
            mixer.state_dim,
            num_slots=mixer.num_slots,
            backend=mixer.backend,
        )
    assert isinstance(mixer, MatrixStateConfig)
    return MatrixStateMixer(
        config.d_model,
        mixer.num_heads,
        mixer.state_dim,
        rule_mixing=mixer.rule_mixing,
        spectral_norm=mixer.spectral_norm,
        backend=mixer.backend,
    )


def _build_feed_forward(config: ModelConfig) -> MLP | RecurrentFFN:
    part = config.feed_forward
    if not isinstance(part, RecurrentFFNConfig):
        return MLP(config.d_model, part.expansion)
    return RecurrentFFN(
        config.d_model, part.width, query=part.query, local_width=part.local_width, backend=part.backend
    )


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

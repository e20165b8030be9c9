"""Mamba-2 as transformers ships it, behind this library's interface: a peer to compare with, not a rewrite.

Letters: B batch, T time, D model width, V vocabulary, H heads, N state dimension, P = expand * D / H, C
channels of the convolution.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from unimatrix.data.settings import check_positive, check_range, check_types
from unimatrix.errors import UserError
from unimatrix.mixers.layout import kept
from unimatrix.models.config import check_known_settings
from unimatrix.models.input_checks import (
    check_embeddings,
    check_ids,
    check_positions,
    check_shapes,
    positions_at,
)
from unimatrix.ops.shapes import Stream, TokenIds, TokenMask

_FALLBACK = "falling back to its reference PyTorch implementation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mamba2Config:
    """Everything that decides a Mamba2's weights and function.

    num_heads: of the recurrence, each expand * d_model / num_heads wide. state_dim: N, numbers that each of
    these channels keeps. max_positions: the longest sequence that it takes, None for any; there are no
    position embeddings. chunk_length: what transformers pads a text's length to a multiple of, and scans
    at a time; its own default of 256 makes short texts slow, and the choice changes nothing but rounding.
    dropout: on the embeddings and on what each block adds to the stream, as in the other models.

    The rest is transformers' default: a convolution over 4 tokens with bias, no other biases, SiLU, the
    stream in float32, initial time steps from 0.001 to 0.1, embeddings and projections drawn from N(0, 0.1).
    """

    kind: ClassVar[str] = "mamba2"
    vocab_size: int = 259
    max_positions: int | None = 128
    d_model: int = 64
    depth: int = 4
    num_heads: int = 2
    state_dim: int = 100
    expand: int = 2
    chunk_length: int = 64
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "vocab_size", "max_positions", "d_model", "depth", "num_heads")
        check_positive(self, "state_dim", "expand", "chunk_length")
        check_range(self, "dropout", low=0.0, below=1.0)
        if self.inner_width % self.num_heads:
            raise UserError(
                f"num_heads: expected a divisor of expand * d_model = {self.inner_width}, "
                f"got {self.num_heads}"
            )

    @property
    def inner_width(self) -> int:
        """Channels of the recurrence, all heads together."""
        return self.expand * self.d_model

    @property
    def convolution_width(self) -> int:
        """C: the recurrence's channels and the two vectors of N that write and read it."""
        return self.inner_width + 2 * self.state_dim

    @property
    def multiply_adds(self) -> int:
        """Of a token: projections, convolution, head; and a state's decay, write and read."""
        projected = self.d_model * (2 * self.inner_width + self.convolution_width + self.num_heads)
        mixed = 4 * self.convolution_width + 3 * self.inner_width * self.state_dim
        # one inner width of the first projection is the gate, and the last one is the way back
        return self.depth * (projected + mixed) + self.vocab_size * self.d_model

    @property
    def recurrent(self) -> bool:
        """The state has one size however long the text."""
        return True

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values with the kind."""
        return {"kind": self.kind, **{field.name: getattr(self, field.name) for field in fields(self)}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Mamba2Config":
        """The inverse of to_dict; raises a UserError for an unknown key, naming the near ones."""
        rest = {name: value for name, value in values.items() if name != "kind"}
        check_known_settings(f"{cls.kind} config", rest, [field.name for field in fields(cls)])
        return cls(**rest)


class Mamba2LayerState(NamedTuple):
    """One block's memory."""

    convolution: Tensor  # [B, C, 4], the last inputs of the convolution
    recurrence: Tensor  # [B, H, P, N] float32


class Mamba2State(NamedTuple):
    """Everything that a continuation needs; batch first in every tensor."""

    position: Tensor  # [B] int64, real tokens so far
    layers: tuple[Mamba2LayerState, ...]


class Mamba2Features(NamedTuple):
    """What `Mamba2.features` makes of a text, and its `logits` reads."""

    hidden: Stream  # [B, T, D]
    state: Mamba2State | None
    streams: tuple[Stream, ...] | None  # the stream into each block, and hidden


class Mamba2(nn.Module):
    """Token ids in, logits and a state out; decoding is the same call on what comes next.

    The weights are those of `transformers.Mamba2ForCausalLM` with tied embeddings and one group, drawn by
    transformers itself from torch's global generator; `backbone` is its Mamba2Model, and the head is the
    embedding. On a GPU transformers takes the kernels of the packages mamba-ssm and causal-conv1d where they
    are installed. The scan computes in float32 whatever the weights are.
    """

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        import transformers  # here alone: the core needs it for this one model

        self.config = config
        # the names that transformers' own logging knows it by; without an accelerator there is no faster way
        logging.getLogger("transformers.integrations.hub_kernels").addFilter(_worth_saying)
        made = transformers.Mamba2ForCausalLM(
            transformers.Mamba2Config(
                vocab_size=config.vocab_size,
                hidden_size=config.d_model,
                num_hidden_layers=config.depth,
                num_heads=config.num_heads,
                head_dim=config.inner_width // config.num_heads,
                state_size=config.state_dim,
                expand=config.expand,
                chunk_size=config.chunk_length,
                n_groups=1,
                tie_word_embeddings=True,
                pad_token_id=None,
                bos_token_id=None,
                eos_token_id=None,
            )
        )
        self.backbone: Any = made.backbone
        self.dropout = nn.Dropout(config.dropout)
        self._make_cache: Any = transformers.DynamicCache
        if config.dropout > 0.0:
            for block in self.backbone.layers:
                block.mixer.register_forward_hook(self._drop)

    @property
    def embedding(self) -> nn.Embedding:
        """The token embeddings, which are the head too."""
        return self.backbone.embeddings

    def init_state(self, batch_size: int) -> Mamba2State:
        """The state before the first token, the same as passing None."""
        config, weight = self.config, self.embedding.weight
        kernel_size = self.backbone.config.conv_kernel
        heads = (config.num_heads, config.inner_width // config.num_heads, config.state_dim)
        layers = tuple(
            Mamba2LayerState(
                weight.new_zeros(batch_size, config.convolution_width, kernel_size),
                weight.new_zeros(batch_size, *heads, dtype=torch.float32),
            )
            for _ in range(config.depth)
        )
        return Mamba2State(weight.new_zeros(batch_size, dtype=torch.int64), layers)

    @property
    def state_layout(self) -> Mamba2State:
        """What a state of this model looks like, see `unimatrix.mixers.layout`."""
        config = self.config
        heads = (config.num_heads, config.inner_width // config.num_heads, config.state_dim)
        window = (config.convolution_width, self.backbone.config.conv_kernel)
        layer = Mamba2LayerState(kept(window, "stream"), kept(heads, torch.float32))
        return Mamba2State(kept((), torch.int64), (layer,) * config.depth)

    def forward(
        self,
        input_ids: TokenIds | None,
        state: Mamba2State | None = None,
        *,
        mask: TokenMask | None = None,
        inputs_embeds: Stream | None = None,
        logits_at: int | Tensor | None = None,
    ) -> tuple[Tensor, Mamba2State | None]:
        """Logits for the token after each position.

        Args:
            input_ids: [B, T] int64, any T >= 0.
            state: what an earlier call returned for the text before; None starts afresh. Not modified.
                Gradients go through it in pieces of two tokens or more; a single token with a state is
                decoding, where transformers writes over what a gradient would need.
            mask: [B, T] bool; False positions are no tokens, and their logits mean nothing. They must lie
                before a row's first token, in a call without a state.
            inputs_embeds: [B, T, D] in the place of input_ids, which is then None.
            logits_at: where logits are wanted, as in `LanguageModel.logits`; None is everywhere.

        Returns:
            logits [B, T, V] float32; the state after the last position, or None in training mode without a
            state: there transformers keeps none, and its fused kernels take none.

        Raises:
            UserError: a token id outside the vocabulary, more tokens than max_positions, a wrong shape,
                padding elsewhere.
        """
        features = self.features(input_ids, state, mask=mask, inputs_embeds=inputs_embeds)
        return self.logits(features, at=logits_at), features.state

    def features(
        self,
        input_ids: TokenIds | None,
        state: Mamba2State | None = None,
        *,
        mask: TokenMask | None = None,
        inputs_embeds: Stream | None = None,
        keep_streams: bool = False,
    ) -> Mamba2Features:
        """`forward` up to the head, which `logits` is; keep_streams: the stream between the blocks too."""
        tokens = self._embeddings(input_ids, inputs_embeds, mask)
        if mask is not None:
            mask = _padding(mask, fresh=state is None)
        batch, length, _ = tokens.shape
        start = torch.zeros(batch, dtype=torch.int64, device=tokens.device)
        start = start if state is None else state.position
        end = start + (length if mask is None else mask.sum(1))
        if length == 0:
            after = self.init_state(batch) if state is None else state
            streams = (tokens,) * (self.config.depth + 1)
            return Mamba2Features(tokens, after, streams if keep_streams else None)
        check_positions(self.config.max_positions, length, end, fresh=state is None and mask is None)
        if mask is not None and length == 1:
            # transformers does not look at the mask of a single position
            tokens, mask = F.pad(tokens, (0, 0, 1, 0)), F.pad(mask, (1, 0))
        keep = state is not None or not self.training
        # ids, embeddings, cache: by place, as the cache has another name from transformers 5.24 on
        hidden, *rest = self.backbone(
            None,
            self.dropout(tokens),
            None if state is None else self._cache_of(state),
            use_cache=keep,
            output_hidden_states=keep_streams,
            attention_mask=mask,
            return_dict=False,
        )
        streams = tuple(stream[:, -length:] for stream in rest[-1]) if keep_streams else None
        after = self._state_of(rest[0], end) if keep else None
        return Mamba2Features(hidden[:, -length:], after, streams)

    def logits(self, features: Mamba2Features, *, at: int | Tensor | None = None) -> Tensor:
        """The logits of what `features` returned, [B, T, V], or where `LanguageModel.logits` says."""
        hidden = features.hidden if at is None else positions_at(at, features.hidden)(features.hidden)
        return F.linear(hidden.to(self.embedding.weight.dtype), self.embedding.weight).float()

    def _embeddings(
        self, input_ids: TokenIds | None, inputs_embeds: Stream | None, mask: TokenMask | None
    ) -> Stream:
        """Those of the tokens or the ones given, after refusing what the model cannot read."""
        if inputs_embeds is not None:
            if input_ids is not None:
                raise UserError("inputs_embeds: expected it in the place of input_ids, got both")
            check_embeddings(inputs_embeds, self.config.d_model, mask)
            return inputs_embeds
        check_shapes(input_ids, mask)
        assert input_ids is not None
        check_ids(input_ids, self.config.vocab_size, training=self.training)
        return self.embedding(input_ids)

    def _drop(self, mixer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """Dropout on what a block adds to the stream; transformers' own has none."""
        return self.dropout(output)

    def _cache_of(self, state: Mamba2State) -> Any:
        """transformers' cache with copies of the state's tensors, since it writes into them."""
        cache = self._make_cache(config=self.backbone.config)
        for place, layer in enumerate(state.layers):
            cache.update_conv_state(layer.convolution, place)
            cache.update_recurrent_state(layer.recurrence, place)
        return cache

    def _state_of(self, cache: Any, position: Tensor) -> Mamba2State:
        """What transformers' cache holds; nothing writes into it any more."""
        kept = [(layer.conv_states, layer.recurrent_states) for layer in cache.layers]
        # from transformers 5.22 on a layer may keep several of each, by number
        kept = [[part[0] if isinstance(part, dict) else part for part in parts] for parts in kept]
        return Mamba2State(position, tuple(Mamba2LayerState(*parts) for parts in kept))


def _padding(mask: TokenMask, *, fresh: bool) -> TokenMask | None:
    """The mask if there is padding where transformers can leave it out, None if there is none.

    Raises:
        UserError: there is padding elsewhere.
    """
    if mask.is_meta or bool(mask.all()):  # the shapes are the same
        return None
    if not fresh or bool((mask[:, 1:] < mask[:, :-1]).any()):
        raise UserError(
            "mask: expected padding before a row's first token alone, in a call without a state "
            "(transformers' Mamba-2 can leave out no other), got padding elsewhere"
        )
    return mask


def _worth_saying(record: logging.LogRecord) -> bool:
    """Without an accelerator there is nothing to install that would be faster."""
    return torch.accelerator.is_available() or _FALLBACK not in record.getMessage()


for _state in (Mamba2LayerState, Mamba2State):
    pytree._register_namedtuple(_state, serialized_type_name=f"unimatrix.{_state.__name__}")

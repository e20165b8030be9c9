"""The configuration of a language model: frozen, nested, JSON and back.

A kind of mixer or routing is a class of its own rather than a flag; KINDS lists them all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, ClassVar, Literal

from unimatrix.errors import UserError
from unimatrix.ops import BACKENDS, Backend


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionConfig:
    """Causal softmax attention.

    qkv_init: weights of the q, k, v projection at the start: normal, N(0, init_std) as everywhere else; or
    xavier, uniform as torch.nn.MultiheadAttention starts it (standard deviation 0.09 at width 64).
    """

    kind: ClassVar[str] = "attention"
    num_heads: int = 4
    qkv_init: Literal["normal", "xavier"] = "normal"

    def __post_init__(self) -> None:
        if self.qkv_init not in ("normal", "xavier"):
            raise UserError(f"qkv_init: expected normal or xavier, got {self.qkv_init!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixStateConfig:
    """The matrix-valued recurrent state."""

    kind: ClassVar[str] = "matrix_state"
    num_heads: int = 4
    state_dim: int = 16
    rule_mixing: bool = False
    spectral_norm: bool = False
    backend: Backend = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class TripleLatentConfig:
    """A retained sum per head, and a memory that binds each token to what the sum was before it.

    num_slots: None keeps the dense pair memory, S x S per head; a number keeps so many slots, whose learned
    addresses the heads share.
    """

    kind: ClassVar[str] = "triple_latent"
    num_heads: int = 4
    state_dim: int = 16
    num_slots: int | None = None
    backend: Backend = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class MLPConfig:
    """The position-wise feed-forward layer."""

    kind: ClassVar[str] = "mlp"
    expansion: int = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class RecurrentFFNConfig:
    """A small recurrent memory in the feed-forward layer's place.

    width: channels of its state. query: whether a projection of the token chooses what is read. local_width:
    of a gated branch without memory beside it, None for none.
    """

    kind: ClassVar[str] = "recurrent_ffn"
    width: int = 128
    query: bool = False
    local_width: int | None = None
    backend: Backend = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviousTokenRoutingConfig:
    """The paper's ROSA stub: the routed token is the previous one."""

    kind: ClassVar[str] = "previous_token"


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepEmbedConfig:
    """Token-conditioned modulation of the channels after each depth step."""

    kind: ClassVar[str] = "deep_embed"
    rank: int = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvolutionConfig:
    """A causal convolution over the last kernel_size tokens' embeddings, past all blocks to the head."""

    kind: ClassVar[str] = "convolution"
    kernel_size: int = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassHeadConfig:
    """A head of its own instead of the embedding: class c is token first_token + c, no other has a chance."""

    kind: ClassVar[str] = "classes"
    num_classes: int
    first_token: int

    def __post_init__(self) -> None:
        _require_positive("num_classes", self.num_classes)
        if not isinstance(self.first_token, int) or self.first_token < 0:
            raise UserError(f"first_token: expected a token id, got {self.first_token!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AssociativeMemoryConfig:
    """Cosine attention over all earlier positions, beside the matrix state of every depth step.

    temperature: tau, what cosines are multiplied by before the softmax.
    """

    kind: ClassVar[str] = "associative"
    temperature: float = 4.0

    def __post_init__(self) -> None:
        if not self.temperature > 0.0:
            raise UserError(f"temperature: expected a positive number, got {self.temperature}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotMemoryConfig:
    """A few slots of exact bindings, read into the stream and, as a pointer, into the logits.

    write_gate_bias: logit at which the write gate starts: 4 writes everything at first, 0 about half of it.
    """

    kind: ClassVar[str] = "slots"
    num_slots: int = 32
    top_k: int | None = None
    width: int = 16
    match_threshold: float = 0.99
    pointer: bool = True
    write_gate: bool = True
    write_gate_bias: float = 4.0
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        _require_positive("slots", self.num_slots)
        _require_positive("memory width", self.width)
        if self.top_k is not None and not 1 <= self.top_k <= self.num_slots:
            raise UserError(f"top_k: expected 1 to slots = {self.num_slots}, got {self.top_k}")
        if not -1.0 <= self.match_threshold < 1.0:
            raise UserError(f"match_threshold: expected a cosine in [-1, 1), got {self.match_threshold}")


KINDS: dict[str, type] = {
    "attention": AttentionConfig,
    "matrix_state": MatrixStateConfig,
    "triple_latent": TripleLatentConfig,
    "mlp": MLPConfig,
    "recurrent_ffn": RecurrentFFNConfig,
    "previous_token": PreviousTokenRoutingConfig,
    "deep_embed": DeepEmbedConfig,
    "associative": AssociativeMemoryConfig,
    "slots": SlotMemoryConfig,
    "convolution": ConvolutionConfig,
    "classes": ClassHeadConfig,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Everything that decides a LanguageModel's weights and function.

    vocab_size: 259 for bytes. max_positions: learned positions, None for none (streams of any length).
    shared_depth: one block applied depth times, or depth blocks. dropout: on the embeddings and on what each
    half of a block adds to the stream.
    """

    vocab_size: int = 259
    max_positions: int | None = 128
    d_model: int = 64
    depth: int = 3
    shared_depth: bool = False
    dropout: float = 0.0
    init_std: float = 0.02
    mixer: AttentionConfig | MatrixStateConfig | TripleLatentConfig = AttentionConfig()
    feed_forward: MLPConfig | RecurrentFFNConfig = MLPConfig()
    routing: PreviousTokenRoutingConfig | None = None
    memory: AssociativeMemoryConfig | SlotMemoryConfig | None = None
    deep_embed: DeepEmbedConfig | None = None
    step_embeddings: bool = False
    convolution: ConvolutionConfig | None = None
    head: ClassHeadConfig | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "depth"):
            _require_positive(name, getattr(self, name))
        if self.max_positions is not None:
            _require_positive("max_positions", self.max_positions)
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"dropout: expected 0 <= dropout < 1, got {self.dropout}")
        if not self.init_std > 0.0:
            raise UserError(f"init_std: expected a positive number, got {self.init_std}")
        for part in (self.mixer, self.feed_forward, self.deep_embed, self.convolution):
            for field in () if part is None else fields(part):
                value = getattr(part, field.name)
                if value is not None and not isinstance(value, bool | str):
                    _require_positive(field.name, value)
        for part in (self.mixer, self.feed_forward, self.memory):
            backend = getattr(part, "backend", "auto")
            if backend not in BACKENDS:
                raise UserError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
        if isinstance(self.memory, AssociativeMemoryConfig) and not isinstance(self.mixer, MatrixStateConfig):
            raise UserError(
                f"memory: the associative memory stands beside a matrix state, got {self.mixer.kind}"
            )
        if self.head is not None and self.head.first_token + self.head.num_classes > self.vocab_size:
            raise UserError(
                f"head: expected classes among the {self.vocab_size} tokens, got "
                f"{self.head.num_classes} from token {self.head.first_token}"
            )
        if isinstance(self.mixer, AttentionConfig) and self.d_model % self.mixer.num_heads:
            raise UserError(
                f"num_heads: expected a divisor of d_model = {self.d_model}, got {self.mixer.num_heads}"
            )

    @property
    def recurrent(self) -> bool:
        """Whether the state has one size however long the text, so that reading in pieces costs nothing."""
        grows = isinstance(self.mixer, AttentionConfig) or isinstance(self.memory, AssociativeMemoryConfig)
        return not grows

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; nested parts carry their kind."""
        return {field.name: _part_to_dict(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelConfig":
        """The inverse of to_dict; raises a UserError for an unknown key, naming the near ones."""
        known = [field.name for field in fields(cls)]
        check_known_settings("model config", values, known)
        return cls(**{key: _part_from_dict(value) for key, value in values.items()})


def _part_to_dict(value: Any) -> Any:
    if type(value) in KINDS.values():
        return {"kind": value.kind, **{f.name: getattr(value, f.name) for f in fields(value)}}
    return value


def _part_from_dict(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    rest = dict(value)
    kind = rest.pop("kind", None)
    if kind not in KINDS:
        raise UserError(f"model config: expected a kind among {', '.join(KINDS)}, got {kind!r}")
    part = KINDS[kind]
    check_known_settings(f"{kind} config", rest, [field.name for field in fields(part)])
    return part(**rest)


def check_known_settings(what: str, values: Mapping[str, Any], known: list[str]) -> None:
    """Raise a UserError unless `values` maps names among `known`; `what` is what they are settings of."""
    if not isinstance(values, Mapping):
        raise UserError(f"{what}: expected an object with settings, got {values!r}")
    for key in values:
        if key not in known:
            near = get_close_matches(key, known, n=3) or known
            raise UserError(f"{what}: unknown setting {key!r}; near ones: {', '.join(near)}")


def _require_positive(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{name}: expected a whole number of at least 1, got {value!r}")

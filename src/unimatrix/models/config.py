"""The configuration of a language model: frozen, nested, JSON and back; what cannot work cannot be made.

A kind of mixer or routing is a class of its own rather than a flag.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from unimatrix.codec import decode, did_you_mean, encode, shown
from unimatrix.data.settings import check_range, check_types
from unimatrix.errors import UserError, UserTypeError
from unimatrix.ops import Backend

# the bytes of every matrix can be counted in 64 bits
_MOST_OF = {"vocab_size": 2**31 - 1, "max_positions": 2**31 - 1, "depth": 2**31 - 1, "num_heads": 2**16}
_MOST = 2**20


_LARGEST_LOGIT = 1e6  # its sigmoid has long been 0 or 1


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
        _check(self, "num_heads")


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixStateConfig:
    """The matrix-valued recurrent state."""

    kind: ClassVar[str] = "matrix_state"
    num_heads: int = 4
    state_dim: int = 16
    rule_mixing: bool = False
    spectral_norm: bool = False
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        _check(self, "num_heads", "state_dim")


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

    def __post_init__(self) -> None:
        _check(self, "num_heads", "state_dim", "num_slots")


@dataclass(frozen=True, kw_only=True, slots=True)
class MLPConfig:
    """The position-wise feed-forward layer."""

    kind: ClassVar[str] = "mlp"
    expansion: int = 4

    def __post_init__(self) -> None:
        _check(self, "expansion")


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

    def __post_init__(self) -> None:
        _check(self, "width", "local_width")


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviousTokenRoutingConfig:
    """The paper's ROSA stub: the routed token is the previous one."""

    kind: ClassVar[str] = "previous_token"


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepEmbedConfig:
    """Token-conditioned modulation of the channels after each depth step."""

    kind: ClassVar[str] = "deep_embed"
    rank: int = 32

    def __post_init__(self) -> None:
        _check(self, "rank")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvolutionConfig:
    """A causal convolution over the last kernel_size tokens' embeddings, past all blocks to the head."""

    kind: ClassVar[str] = "convolution"
    kernel_size: int = 5

    def __post_init__(self) -> None:
        _check(self, "kernel_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassHeadConfig:
    """A head of its own instead of the embedding: class c is token first_token + c, no other has a chance."""

    kind: ClassVar[str] = "classes"
    num_classes: int
    first_token: int

    def __post_init__(self) -> None:
        _check(self, "num_classes")
        if self.first_token < 0:
            raise UserError(f"first_token: expected a token id, got {self.first_token}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AssociativeMemoryConfig:
    """Cosine attention over all earlier positions, beside the matrix state of every depth step.

    temperature: tau, what cosines are multiplied by before the softmax.
    """

    kind: ClassVar[str] = "associative"
    temperature: float = 4.0

    def __post_init__(self) -> None:
        _check(self)
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
        check_types(self)
        _check_count("slots", self.num_slots)
        _check_count("memory width", self.width)
        _check_backend(self)
        if self.top_k is not None and not 1 <= self.top_k <= self.num_slots:
            raise UserError(f"top_k: expected 1 to slots = {self.num_slots}, got {self.top_k}")
        if not -1.0 <= self.match_threshold < 1.0:
            raise UserError(f"match_threshold: expected a cosine in [-1, 1), got {self.match_threshold}")
        if not abs(self.write_gate_bias) <= _LARGEST_LOGIT:
            raise UserError(
                f"write_gate_bias: expected a logit of at most {_LARGEST_LOGIT:g}, got {self.write_gate_bias}"
            )


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
    # made when they are needed: to check them takes more than torch and numpy
    mixer: AttentionConfig | MatrixStateConfig | TripleLatentConfig = field(default_factory=AttentionConfig)
    feed_forward: MLPConfig | RecurrentFFNConfig = field(default_factory=MLPConfig)
    routing: PreviousTokenRoutingConfig | None = None
    memory: AssociativeMemoryConfig | SlotMemoryConfig | None = None
    deep_embed: DeepEmbedConfig | None = None
    step_embeddings: bool = False
    convolution: ConvolutionConfig | None = None
    head: ClassHeadConfig | None = None

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("vocab_size", "d_model", "depth", "max_positions"):
            _check_count(name, getattr(self, name))
        check_range(self, "dropout", low=0.0, below=1.0)
        if not self.init_std > 0.0:
            raise UserError(f"init_std: expected a positive number, got {self.init_std}")
        # what a part gives to the matrix state's readout, or reads beside it, no other mixer has a place for
        for name in ("routing", "memory"):
            part = getattr(self, name)
            beside = isinstance(part, PreviousTokenRoutingConfig | AssociativeMemoryConfig)
            if beside and not isinstance(self.mixer, MatrixStateConfig):
                raise UserError(
                    f"{name}: expected a matrix_state mixer beside {part.kind}, got {self.mixer.kind}"
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
        return encode(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelConfig":
        """The inverse of to_dict; a UserError names the setting that is unknown, of another type or range."""
        check_known_settings("model config", values, [field.name for field in fields(cls)])
        return decode(cls, values, where="model config")


def check_known_settings(what: str, values: Mapping[str, Any], known: list[str]) -> None:
    """Raise a UserError unless `values` maps names among `known`; `what` is what they are settings of."""
    if not isinstance(values, Mapping):
        raise UserTypeError(f"{what}: expected an object with settings, got {shown(values)}")
    for key in values:
        if key not in known:
            raise UserError(f"{what}: unknown setting {shown(key)}; {did_you_mean(key, known)}")


def _check(part: Any, *counts: str) -> None:
    """Raise a UserError unless fields have their types, those named are counts, and the backend exists."""
    check_types(part)
    for name in counts:
        _check_count(name, getattr(part, name))
    _check_backend(part)


def _check_count(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UserError(f"{name}: expected a whole number of at least 1, got {shown(value)}")
    most = _MOST_OF.get(name, _MOST)
    if value is not None and value > most:
        raise UserError(f"{name}: expected a whole number of at most {most:,}, got {shown(value)}")


def _check_backend(part: Any) -> None:
    if getattr(part, "backend", None) == "triton":
        raise UserError(f"backend: expected another than triton, which {part.kind} has no form of")

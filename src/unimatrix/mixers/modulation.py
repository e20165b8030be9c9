"""What every depth step does to the stream besides: a scale by the token, a shift by the step."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unimatrix.data.settings import check_counts, check_types
from unimatrix.mixers.part import Given, Part, Reading, Role, Size
from unimatrix.mixers.registry import PartConfig
from unimatrix.ops.shapes import Stream, TokenIds


class DeepEmbed(Part):
    """A small embedding of the token scales the channels: x * (1 + W e(token)).

    Table V x rank and Linear(rank, D) without bias. At initialisation the scale is 1 to within a permille.
    """

    def __init__(self, vocab_size: int, rank: int, d_model: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, rank)
        self.expand = nn.Linear(rank, d_model, bias=False)

    def forward(self, input_ids: TokenIds) -> Stream:
        """The factor [B, T, D] for input_ids [B, T]."""
        return 1.0 + self.expand(self.table(input_ids))

    def give(self, x: Stream, state: Any, at: Reading, given: Given) -> tuple[Given, Any]:
        return Given(scale=self(at.ids)), None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepEmbedConfig(PartConfig):
    """Token-conditioned modulation of the channels after each depth step."""

    kind: ClassVar[str] = "deep_embed"
    role: ClassVar[Role] = "model"
    reads: ClassVar[frozenset[str]] = frozenset({"ids"})
    gives: ClassVar[frozenset[str]] = frozenset({"scale"})
    rank: int = 32

    def __post_init__(self) -> None:
        check_types(self)
        check_counts(self, "rank")

    def build(self, size: Size) -> DeepEmbed:
        return DeepEmbed(size.vocab_size, self.rank, size.d_model)


class StepEmbeddings(Part):
    """A vector for each depth step, added to the stream before it: L x D weights."""

    def __init__(self, depth: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(depth, d_model))
        nn.init.normal_(self.weight)  # as an nn.Embedding would

    @torch.no_grad()
    def init_weights(self, std: float) -> None:
        """Draw them from N(0, std)."""
        nn.init.normal_(self.weight, std=std)

    def forward(self) -> Tensor:
        """[L, D]."""
        return self.weight

    def give(self, x: Stream, state: Any, at: Reading, given: Given) -> tuple[Given, Any]:
        return Given(shift=self()), None


@dataclass(frozen=True, kw_only=True, slots=True)
class StepEmbeddingsConfig(PartConfig):
    """A learned vector for each depth step, so that a shared block knows which it is."""

    kind: ClassVar[str] = "step_embeddings"
    role: ClassVar[Role] = "model"
    gives: ClassVar[frozenset[str]] = frozenset({"shift"})

    def build(self, size: Size) -> StepEmbeddings:
        return StepEmbeddings(size.depth, size.d_model)

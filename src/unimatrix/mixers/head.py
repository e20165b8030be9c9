"""The heads: what makes logits over the vocabulary from the stream behind the last norm.

Letters: D model width, V vocabulary.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatrix.data.settings import check_counts, check_types
from unimatrix.errors import UserError, shown
from unimatrix.mixers.part import Role, Size
from unimatrix.mixers.registry import PartConfig


class HeadConfig(PartConfig):
    """Base of the heads' configs.

    The module is a plain Linear, so that adapters and quantisers know it; what else makes logits of its
    products says `logits`. tied: its `weight` is the embedding's. attribute: the module's name in a model and
    so its weights'.
    """

    __slots__ = ()
    role: ClassVar[Role] = "head"
    tied: ClassVar[bool] = False
    attribute: ClassVar[str] = "head"

    def logits(self, products: Tensor, size: Size) -> Tensor:
        """Logits [..., V] of what the module makes of the stream."""
        return products


@dataclass(frozen=True, kw_only=True, slots=True)
class TiedHeadConfig(HeadConfig):
    """The embedding once more: a token's logit is the stream's product with its embedding."""

    kind: ClassVar[str] = "tied"
    tied: ClassVar[bool] = True

    def build(self, size: Size) -> nn.Linear:
        # weights of its own would only be drawn to be thrown away
        return nn.Linear(size.d_model, size.vocab_size, bias=False, device="meta")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaledHeadConfig(HeadConfig):
    """The tied head with its logits times a constant, which lets them grow sooner in a short training."""

    kind: ClassVar[str] = "scaled"
    tied: ClassVar[bool] = True
    scale: float = 8.0

    def __post_init__(self) -> None:
        check_types(self)
        if not self.scale > 0.0:
            raise UserError(f"scale: expected a positive number, got {self.scale}")

    def build(self, size: Size) -> nn.Linear:
        return TiedHeadConfig().build(size)

    def logits(self, products: Tensor, size: Size) -> Tensor:
        return products * self.scale


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassHeadConfig(HeadConfig):
    """A head of its own instead of the embedding: class c is token first_token + c, no other has a chance."""

    kind: ClassVar[str] = "classes"
    attribute: ClassVar[str] = "class_head"
    num_classes: int
    first_token: int

    def __post_init__(self) -> None:
        check_types(self)
        check_counts(self, "num_classes")
        if self.num_classes < 2:
            raise UserError(
                "num_classes: expected at least 2, as of one class there is nothing to learn, got 1"
            )
        if self.first_token < 0:
            raise UserError(f"first_token: expected a token id, got {self.first_token}")

    def check(self, size: Size) -> None:
        if self.first_token + self.num_classes > size.vocab_size:
            raise UserError(
                f"head: expected first_token + num_classes at most vocab_size {shown(size.vocab_size)}, got "
                f"{shown(self.first_token)} + {shown(self.num_classes)}"
            )

    def build(self, size: Size) -> nn.Linear:
        return nn.Linear(size.d_model, self.num_classes)

    def logits(self, products: Tensor, size: Size) -> Tensor:
        after = size.vocab_size - self.first_token - self.num_classes
        return F.pad(products, (self.first_token, after), value=-torch.inf)

"""A part as another package would have it: it registers itself, and nothing in unimatrix knows of it."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

import unimatrix
from unimatrix.data.settings import check_types
from unimatrix.mixers import Given, Part, PartConfig
from unimatrix.mixers.layout import kept


class SurpriseState(NamedTuple):
    """The most surprising token so far."""

    token: Tensor  # [B] int64, -1 for none
    error: Tensor  # [B] float32


class Surprise(Part):
    """Keeps the token that the layer's state foretold worst, and votes for it where the model is unsure."""

    def __init__(self, vocab_size: int, strength: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(strength))
        self.vocab_size, self.strength = vocab_size, strength

    @torch.no_grad()
    def init_weights(self, std: float) -> None:
        self.weight.fill_(self.strength)

    def state_layout(self) -> Any:
        return SurpriseState(kept((), torch.int64, ids=True), kept((), "sums"))

    def give(self, x, state, at, given):
        error = given.error.mean(-1).detach()
        token = at.ids.new_full((len(x),), -1) if state is None else state.token
        worst = error.new_full((len(x),), -1.0) if state is None else state.error
        tokens = []
        for t in range(x.shape[1]):
            real = torch.ones_like(token, dtype=torch.bool) if at.mask is None else at.mask[:, t]
            take = real & (error[:, t] > worst)
            token, worst = torch.where(take, at.ids[:, t], token), torch.where(take, error[:, t], worst)
            tokens.append(token)
        kept_tokens = torch.stack(tokens, 1) if tokens else at.ids
        return Given(votes=(kept_tokens,), seen=(error,)), SurpriseState(token, worst.to(worst.dtype))

    def vote(self, logits, hidden, votes):
        (tokens,) = votes
        unsure = 1.0 - logits.softmax(-1).amax(-1, keepdim=True)  # the model's own logits decide
        chosen = nn.functional.one_hot(tokens.clamp_min(0), self.vocab_size) * (tokens >= 0)[..., None]
        return logits + self.weight * unsure * chosen


@dataclass(frozen=True, kw_only=True, slots=True)
class SurpriseConfig(PartConfig):
    """Votes for the most surprising token."""

    def __post_init__(self) -> None:
        check_types(self)

    kind: ClassVar[str] = "surprise"
    role: ClassVar[str] = "mix"
    reads: ClassVar[frozenset[str]] = frozenset({"ids", "error"})
    gives: ClassVar[frozenset[str]] = frozenset({"votes", "seen"})
    strength: float = 2.0

    def build(self, size):
        return Surprise(size.vocab_size, self.strength)


unimatrix.register(Surprise, SurpriseConfig)

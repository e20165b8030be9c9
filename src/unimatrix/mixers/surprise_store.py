"""A store of the tokens that the recurrent state foretold worst; the state itself keeps the rest.

It stands in a layer behind a part that gives `error`, how far the state was from each token before its write.
What is stored is bound as in SparsePointer's memory (`unimatrix.mixers.slot_memory`): (key of token t - 1) ->
(value and id of token t), read by exact attention into the stream and, as a pointer, into the logits. The
criterion is this project's own; the other policies are what it is compared with.

Letters: B batch, T time, N entries, E width of keys, values and queries, D model width, H heads.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatrix.data.settings import check_counts, check_types
from unimatrix.errors import UserError
from unimatrix.mixers.layout import kept
from unimatrix.mixers.part import Given, Part, Reading, Role, Size
from unimatrix.mixers.pointer import pointer_votes
from unimatrix.mixers.previous import Previous, none_before, previous_layout, shift
from unimatrix.mixers.registry import PartConfig
from unimatrix.ops import Backend, BackendChoice, StoreReads, SurpriseStoreState, surprise_store
from unimatrix.ops.shapes import Stream, TokenIds, TokenMask, accumulation_dtype, check_count
from unimatrix.ops.surprise_store.state import MOST_KEPT
from unimatrix.ops.windows import document_ids

Policy = Literal["surprise", "surprise-oldest", "always", "random", "reservoir", "oracle"]


class SurpriseStorePartState(NamedTuple):
    """The store, and the key that the next token will be bound to."""

    store: SurpriseStoreState
    previous: Previous


class Kept(NamedTuple):
    """What the store gives to each position."""

    context: Stream  # [B, T, D], to be added to the stream
    reads: StoreReads


class SurpriseStore(Part):
    """Binds tokens that are worth keeping to the one before each, in at most `budget` entries.

    Keys, values and queries are read off the LayerNorm of the token embeddings, so that a token's key is the
    same wherever it stands. A pointer gate weighs the votes. Arguments are those of `SurpriseStoreConfig`.
    """

    def __init__(
        self,
        d_model: int,
        *,
        budget: int,
        policy: Policy = "surprise",
        rate: float | None = None,
        window: int = 256,
        top_k: int | None = None,
        width: int = 16,
        pointer: bool = True,
        seed: int = 0,
        asked: tuple[int, int] | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.policy: Policy = policy
        self.budget, self.rate, self.window = budget, rate, window
        self.top_k, self.seed, self.asked = top_k, seed, asked
        self.backend = BackendChoice(backend)
        self.norm = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * width, bias=False)
        self.out = nn.Linear(width, d_model, bias=False)
        self.pointer_gate = nn.Linear(d_model, 1) if pointer else None

    def give(self, x: Stream, state: Any, at: Reading, given: Given) -> tuple[Given, Any]:
        assert at.ids is not None
        assert given.error is not None
        found, state = self(at.tokens, at.ids, given.error, state, mask=at.mask, starts=at.starts)
        votes = None if self.pointer_gate is None else (found.reads.weights, found.reads.token_ids)
        return Given(add=found.context, votes=votes, seen=found), state

    def state_layout(self) -> Any:
        entries, width, whole = self.budget, self.out.in_features, torch.int64
        vectors = kept((entries, width), "sums")
        store = SurpriseStoreState(
            *(vectors, vectors, kept((entries,), whole, ids=True), kept((entries,), whole)),
            *(kept((self.window,), whole), kept((), whole), kept((), whole)),
        )
        return SurpriseStorePartState(store, previous_layout(width))

    def forward(
        self,
        x: Stream,
        input_ids: TokenIds,
        error: Tensor,
        state: SurpriseStorePartState | None = None,
        *,
        mask: TokenMask | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Kept, SurpriseStorePartState]:
        """Token embeddings [B, T, D], ids [B, T] and errors [B, T, H] to what is read, and the next state."""
        query, key, value = self.qkv(self.norm(x)).chunk(3, dim=-1)
        carry = none_before(key) if state is None else state.previous
        key, allowed, carry = shift(key, carry, mask, starts)
        if self.policy == "oracle":
            allowed = allowed & asked_again(input_ids, mask, starts, self.asked)
        reads, store = surprise_store(
            query,
            key,
            value,
            input_ids,
            # not rounded to 16 bits, of which thousands of unlike ones would be equal
            error.detach().mean(-1).to(accumulation_dtype(query.dtype)),
            budget=self.budget,
            policy="always" if self.policy == "oracle" else self.policy,
            rate=self.rate,
            window=self.window,
            top_k=self.top_k,
            seed=self.seed,
            allowed=allowed,
            state=None if state is None else state.store,
            mask=mask,
            starts=starts,
            backend=self.backend,
        )
        return Kept(self.out(reads.context), reads), SurpriseStorePartState(store, carry)

    def vote(self, logits: Tensor, hidden: Stream, votes: Any) -> Tensor:
        assert self.pointer_gate is not None
        weights, token_ids = votes
        return logits + pointer_votes(self.pointer_gate, hidden, weights, token_ids, logits.shape[-1])


@torch.no_grad()
def asked_again(
    ids: TokenIds, mask: TokenMask | None, starts: Tensor | None, asked: tuple[int, int] | None
) -> Tensor:
    """Which tokens will be asked for later in what is read here, [B, T] bool: what the oracle is told.

    Token t answers its predecessor: it is asked for where the predecessor's id comes again in the document;
    with a range of ids, of one in [asked); without, where t's own id follows it there once more.
    """
    length = ids.shape[1]
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    document = torch.zeros_like(ids) if starts is None else document_ids(starts)
    # padding out of the way, the order kept
    order = (~real).long().argsort(dim=1, stable=True)
    ids, document, real = (x.gather(1, order) for x in (ids, document, real))
    before, same = F.pad(ids, (1, 0))[:, :length], document == F.pad(document, (1, 0), value=-1)[:, :length]
    if asked is None:
        wanted = _comes_again(document, before, ids, real & same)
    else:
        question = (ids >= asked[0]) & (ids < asked[1]) & _comes_again(document, ids, ids, real)
        wanted = F.pad(question, (1, 0))[:, :length]
    return torch.zeros_like(real).scatter(1, order, wanted & same & real)


def _comes_again(document: Tensor, first: Tensor, second: Tensor, counted: Tensor) -> Tensor:
    """Whether the same triple stands at a later counted position, [B, T] bool."""
    triples = torch.stack([document, first, second], dim=-1)
    code = torch.unique(triples.flatten(0, 1), dim=0, return_inverse=True)[1].view_as(document)
    # what does not count is equal to nothing
    length = document.shape[1]
    code = torch.where(counted, code, -1 - torch.arange(length, device=code.device))
    inorder, order = code.sort(dim=1, stable=True)
    again = F.pad(inorder[:, 1:] == inorder[:, :-1], (0, 1))[:, :length]
    return torch.zeros_like(counted).scatter(1, order, again)


@dataclass(frozen=True, kw_only=True, slots=True)
class SurpriseStoreConfig(PartConfig):
    """Keeps the tokens that its layer's state foretold worst, and reads them into stream and logits.

    budget: entries at most. policy: who is kept, see `unimatrix.ops.surprise_store`; oracle is told what will
    be asked for, by a look ahead in the text that one call reads, for experiments alone. rate: the share that
    is admitted once the store is full, of the surprise policies and random; None: the budget over the tokens
    so far. window: with how many surprises
    before it a token's own is compared. top_k: entries that a query reads. seed: of the random policies.
    asked: (first, behind the last) of the ids that ask when they come again, for the oracle; None: any id
    that is followed by the same token again.
    """

    kind: ClassVar[str] = "surprise_store"
    ops: ClassVar[tuple[str, ...]] = ("surprise_store",)
    role: ClassVar[Role] = "mix"
    documents: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset({"ids", "error"})
    gives: ClassVar[frozenset[str]] = frozenset({"add", "votes", "seen"})
    budget: int = 64
    policy: Policy = "surprise"
    rate: float | None = None
    window: int = 256
    top_k: int | None = None
    width: int = 16
    pointer: bool = True
    seed: int = 0
    asked: tuple[int, int] | None = None
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        check_types(self)
        check_counts(self, "budget", "window", "width")
        for name in ("budget", "window"):
            check_count(name, getattr(self, name), MOST_KEPT)
        if self.top_k is not None and not 1 <= self.top_k <= self.budget:
            raise UserError(f"top_k: expected 1 to budget = {self.budget}, got {self.top_k}")
        if self.rate is not None and not 0.0 < self.rate <= 1.0:
            raise UserError(f"rate: expected above 0 and at most 1, got {self.rate}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed: expected at least 0 and below 2^63, got {self.seed}")
        if self.asked is not None and self.policy != "oracle":
            raise UserError(f"asked: expected None, as the oracle alone is told, got {self.asked}")
        if self.asked is not None and not 0 <= self.asked[0] < self.asked[1]:
            raise UserError(f"asked: expected a range of ids, got {self.asked}")

    @property
    def looks_back(self) -> bool:
        """The oracle's text is read whole: in pieces it would know of less."""
        return self.policy == "oracle"

    def build(self, size: Size) -> SurpriseStore:
        return SurpriseStore(
            size.d_model,
            budget=self.budget,
            policy=self.policy,
            rate=self.rate,
            window=self.window,
            top_k=self.top_k,
            width=self.width,
            pointer=self.pointer,
            seed=self.seed,
            asked=self.asked,
            backend=self.backend,
        )

    def multiply_adds(self, size: Size, length: int) -> int:
        return length * self.budget * 2 * self.width  # a score and a weighted value for every entry

"""What a part of a model is: a module, and the ports that it gives to and reads (its config: `registry`).

A part computes with its own arguments (`forward`); `give` connects it to the model. What it gives goes
through a closed set of ports (`Given`): a model knows ports and no part, and a new part changes no model.

Letters: B batch, T time, D model width, L depth, H heads, V vocabulary.
"""

from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from unimatrix.errors import UserError
from unimatrix.ops.internals import hooked_everywhere
from unimatrix.ops.shapes import Stream, TokenIds, TokenMask

# where a part stands: once in a model; in a layer, its outputs added behind the layer's first or second norm;
# or as what a model has one of: every norm, and the head
Role = Literal["model", "mix", "feed", "norm", "head"]


class Size(NamedTuple):
    """What a part has to fit."""

    vocab_size: int
    d_model: int
    depth: int


class Reading(NamedTuple):
    """What one call of the model reads, the same for every part."""

    ids: TokenIds | None  # [B, T]; None where embeddings came in their place
    tokens: Stream  # [B, T, D], the tokens' embeddings alone: no positions, no dropout
    mask: TokenMask | None = None  # [B, T] bool, False = no token
    starts: Tensor | None = None  # [B, T] bool, True = a document begins here, and every state is empty
    wanted: frozenset[str] = frozenset()  # ports that some part of the model reads; no other need be given
    first: bool = True  # whether the layer is asked for the first time in the call; no later depth step


class Given(NamedTuple):
    """What parts give, port by port; None is nothing. A layer's parts find here what came before them."""

    add: Stream | None = None  # [B, T, D], joins the stream where the part stands
    context: Stream | None = None  # [B, T, D], joins the readouts of mixers that read it, before their gate
    shift: Tensor | None = None  # [L, D], added to the stream before each depth step
    scale: Stream | None = None  # [B, T, D], what the stream is multiplied by after each depth step
    late: Stream | None = None  # [B, T, D], added behind the last norm
    error: Tensor | None = None  # [B, T, H], how badly the state foretold each token before its write
    votes: Any = None  # tensors [B, T, ...] in nested tuples, for the part's own `vote`
    seen: Any = None  # the same, for inspection


PORTS = frozenset(Given._fields)
NOTHING = Given()


class Part(nn.Module):
    """A module that stands in a model. What it needs beyond `forward` it says in these methods.

    Weights start as `unimatrix.mixers.initial` draws them, or as `init_weights(std)` of its own does.
    """

    def give(self, x: Stream, state: Any, at: Reading, given: Given) -> tuple[Given, Any]:
        """What the part gives for a piece of text, and its state after it.

        Without one of its own, `forward(x, state, *, mask, starts)` returns (y, state), and y is added.

        Args:
            x: [B, T, D], T >= 0, the stream where it stands; of a layer's part behind the norm.
            state: what it returned for the text before; None at the beginning, or if it keeps none.
            at: at.mask [B, T] bool or None: False positions are no tokens, and leave the state as it is.
                at.starts [B, T] bool or None: at a True position, a token or not, the state is emptied.
            given: what parts before it gave.
        """
        # whoever does not take starts has to say so loudly: it would read on from one document into the next
        more = {} if at.starts is None else {"starts": at.starts}
        given_back = self(x, state, mask=at.mask, **more)
        if not isinstance(given_back, tuple) or len(given_back) != 2:
            # a tensor of two rows would come apart without a word
            raise UserError(
                f"{type(self).__name__}: expected forward(x, state, *, mask, starts) to return (y, state), or"
                f" a give() of its own, got a {type(given_back).__name__}"
            )
        return Given(add=given_back[0]), given_back[1]

    def vote(self, logits: Tensor, hidden: Stream, votes: Any) -> Tensor:
        """The logits [..., V] with the part's votes; the model's own are given, and what `votes` held.

        hidden: [..., D], what the head read. All three at the asked positions alone.
        """
        raise NotImplementedError(f"{type(self).__name__} gives votes and says nothing of how they count")

    def state_layout(self) -> Any:
        """What its state looks like, see `unimatrix.mixers.layout`; None: it keeps none."""
        return None

    def draw_first(self) -> None:
        """Draw what is drawn before all other weights of a model; at its making a module has done so."""

    def draw_last(self) -> None:
        """Draw or set what comes after all other weights of a model have been drawn."""

    @property
    def renews(self) -> bool:
        """Whether `renew` has anything to do."""
        return False

    def renew(self) -> None:
        """Called once before every pass in training."""


def adds_alone(got: Given) -> bool:
    """Whether no port but `add` is used, as most parts of a layer do."""
    return (
        got.votes is got.seen is got.context is got.error is None
        and got.late is got.scale is got.shift is None
    )


def check_given(name: str, got: Given, declared: frozenset[str]) -> None:
    """Raise a UserError where a part gives what its config does not say that it gives."""
    for port, value in zip(Given._fields, got, strict=True):
        if value is not None and port not in declared:
            raise UserError(
                f"{name}: gives {port}, expected only what its config declares: {sorted(declared)}"
            )


def give(kind: type[nn.Module], part: Any, x: Stream, state: Any, at: Reading, given: Given) -> Any:
    """`part.give`, of a wrapper too: what torch.compile or checkpoint_wrapper put around a part is called.

    kind: the part's class as the model made it; a wrapper's own `give` would be that of the part inside.
    """
    own = type(part) if isinstance(part, Part) else kind
    return own.give(part, x, state, at, given)  # type: ignore[attr-defined]


def called_as_written(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling it is calling `kind.forward`: no subclass, no wrapper, no hook that is to see it."""
    return (
        type(module) is kind
        and "forward" not in module.__dict__  # where accelerate puts one that brings the weights
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and not hooked_everywhere()
    )


def joined(before: Given, got: Given) -> Given:
    """What later parts and the model find after a part gave `got`; votes and what was seen stay with it."""
    return Given(
        plus(before.add, got.add),
        plus(before.context, got.context),
        plus(before.shift, got.shift),
        times(before.scale, got.scale),
        plus(before.late, got.late),
        before.error if got.error is None else got.error,
    )


def plus(x: Any, more: Tensor | None) -> Any:
    """x + more, where None is nothing."""
    return x if more is None else more if x is None else x + more


def times(x: Any, more: Tensor | None) -> Any:
    """x * more, where None is one."""
    return x if more is None else more if x is None else x * more

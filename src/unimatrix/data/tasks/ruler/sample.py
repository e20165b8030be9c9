"""What RULER's tasks have in common: what one writes, out of what, and how long it may be."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, Protocol

from unimatrix.data.tasks.ruler.draws import Draws
from unimatrix.data.tasks.ruler.words import Words
from unimatrix.errors import UserError

# what a task's sentences are hidden in: noise always, or a request's haystack in the place of essays
HiddenIn = Literal["noise", "essays"] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """prompt: what a model reads. answers: what it should name. written: as a right answer follows it."""

    prompt: str
    answers: tuple[str, ...]
    written: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Haystack:
    """A text of one's own to hide needles in: its words, and which bytes they were read from."""

    words: tuple[str, ...]
    sha256: str

    @classmethod
    def from_bytes(cls, data: bytes) -> "Haystack":
        """Raises a UserError where there is no word."""
        words = tuple(data.decode("utf-8", "replace").split())
        if not words:
            raise UserError("haystack: expected words, got none")
        return cls(words=words, sha256=sha256(data).hexdigest())


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a sample is written for.

    length: tokens of prompt and answer together, at most. count: how many tokens a text is. added: tokens
    that stand before a prompt beside its own, as BOS. words, haystack: what tasks use that take them; None
    where none does, and the official noise.
    """

    length: int
    count: Callable[[str], int]
    added: int = 0
    words: Words | None = None
    haystack: Haystack | None = None


class RulerTask(Protocol):
    """A task: its settings in a frozen dataclass, and a text of any size.

    answer_tokens: how many tokens the official suite lets a model answer with. takes_words: whether it uses a
    request's. hidden_in: the official haystack, if it has one. A size counts what a text is made of:
    sentences, words.
    """

    @property
    def answer_tokens(self) -> int: ...
    @property
    def takes_words(self) -> bool: ...
    @property
    def hidden_in(self) -> HiddenIn: ...

    def smallest(self, request: Request) -> int:
        """The smallest size at which the question has one answer."""
        ...

    def largest(self, request: Request) -> int | None:
        """The largest size that can be written at all; None is any."""
        ...

    def step(self, request: Request) -> int:
        """By how much sizes differ."""
        ...

    def write(self, draws: Draws, size: int, request: Request) -> Text:
        """A text of this size; a function of its arguments alone."""
        ...


def largest_that(
    fits: Callable[[int], bool], *, smallest: int, step: int = 1, most: int | None = None
) -> int | None:
    """The largest of smallest, smallest + step, ... that fits; None where the smallest does not.

    Args:
        fits: whether a size does; no size does above one that does not.
        most: no size above it is tried.
    """
    if not fits(smallest):
        return None
    # sizes are smallest + steps * step: `fit` of them do, `beyond` do not
    fit, beyond = 0, 1
    while (most is None or smallest + beyond * step <= most) and fits(smallest + beyond * step):
        fit, beyond = beyond, 2 * beyond
    if most is not None:
        beyond = min(beyond, (most - smallest) // step + 1)
    while beyond - fit > 1:
        middle = (fit + beyond) // 2
        fit, beyond = (middle, beyond) if fits(smallest + middle * step) else (fit, middle)
    return smallest + fit * step

"""What RULER's tasks have in common: what one writes, out of what, and how long it may be."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, Protocol

from unimatrix.data.tasks.ruler.draws import Draws
from unimatrix.data.tasks.ruler.words import Words
from unimatrix.errors import UserError

_GUESSES = 8  # then by halves
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


def largest_within(
    limit: int, measure: Callable[[int], int], *, smallest: int, step: int = 1, most: int | None = None
) -> int | None:
    """The largest of smallest, smallest + step, ... that measures at most `limit`; None if none does.

    What measures nearly the same for each step more, as texts do, is found in a few tries.

    Args:
        measure: of a size, never less than of a smaller one.
        most: no size above it is tried.
    """
    first = measure(smallest)
    if first > limit:
        return None
    # sizes are smallest + steps * step: `fit` of them do, `beyond` do not
    fit, taken, beyond = 0, first, None if most is None else (most - smallest) // step + 1
    each, tries = 0.0, 0
    while beyond is None or beyond - fit > 1:
        if each > 0.0 and tries < _GUESSES:
            tried = fit + int((limit - taken) / each)
        else:
            tried = 2 * fit + 8 if beyond is None else (fit + beyond) // 2
        tried = max(tried, fit + 1) if beyond is None else min(max(tried, fit + 1), beyond - 1)
        found = measure(smallest + tried * step)
        if found <= limit:
            fit, taken = tried, found
        else:
            beyond = tried
        each, tries = (found - first) / tried, tries + 1
    return smallest + fit * step

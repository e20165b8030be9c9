"""Common words: a list in which ten words stand more often than all others, behind a short one, solved.

1. sea 2. sky 3. sea ...   What are the 10 most common words in the above list?   -> sea sky ...
"""

from dataclasses import dataclass

from unimatrix.data.tasks.ruler import texts
from unimatrix.data.tasks.ruler.draws import Draws
from unimatrix.data.tasks.ruler.sample import HiddenIn, Request, Text
from unimatrix.data.tasks.ruler.words import Words

_SHORT = 4096  # below so many tokens words are repeated less


@dataclass(frozen=True, kw_only=True, slots=True)
class _Repeats:
    """How often a common word and any other stands in the list, likewise in the example, and its words."""

    common: int
    other: int
    example_common: int
    example_other: int
    example_words: int


_REPEATS = _Repeats(common=30, other=3, example_common=10, example_other=3, example_words=40)
_SHORT_REPEATS = _Repeats(common=6, other=1, example_common=3, example_other=1, example_words=20)


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonWords:
    """num_common: words that stand more often than the others."""

    num_common: int = 10
    hidden_in: HiddenIn = None
    takes_words: bool = True
    answer_tokens: int = texts.COMMON_WORDS_ANSWER_TOKENS

    def smallest(self, request: Request) -> int:
        """As many other words as common ones."""
        return 2 * self.num_common

    def largest(self, request: Request) -> int | None:
        assert request.words is not None
        return len(request.words.all)

    def step(self, request: Request) -> int:
        return 1

    def write(self, draws: Draws, size: int, request: Request) -> Text:
        """size: different words."""
        assert request.words is not None
        repeats = _SHORT_REPEATS if request.length < _SHORT else _REPEATS
        example, solved = self._list(
            draws, repeats.example_words, request.words, repeats.example_common, repeats.example_other
        )
        context, common = self._list(draws, size, request.words, repeats.common, repeats.other)
        shown = texts.COMMON_WORDS.format(context=example) + _numbered(solved)
        return Text(
            prompt=f"{shown}\n{texts.COMMON_WORDS.format(context=context)}",
            answers=tuple(common),
            written=_numbered(common),
        )

    def _list(self, draws: Draws, size: int, words: Words, common: int, other: int) -> tuple[str, list[str]]:
        chosen = [words.all[number] for number in draws.some_of(len(words.all), size)]
        repeated = chosen[: self.num_common] * common + chosen[self.num_common :] * other
        shuffled = [repeated[place] for place in draws.order(len(repeated))]
        return _numbered(shuffled)[1:], chosen[: self.num_common]


def _numbered(words: list[str]) -> str:
    return "".join(f" {number}. {word}" for number, word in enumerate(words, start=1))

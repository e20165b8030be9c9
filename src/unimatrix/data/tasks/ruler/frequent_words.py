"""Frequent words: made-up words as often as a zeta distribution says, the most frequent made dots.

    ... qwerty ... ... asdfgh ... qwerty ...   What are the three most frequently ... words?   -> qwerty ...

The word of rank k stands floor(N k^-2 / zeta(2)) times, N the size.
"""

import math
from dataclasses import dataclass

from unimatrix.data.tasks.ruler import texts
from unimatrix.data.tasks.ruler.draws import Draws
from unimatrix.data.tasks.ruler.sample import HiddenIn, Request, Text

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORD = 6  # letters
_ALPHA, _ZETA = 2.0, math.pi**2 / 6
_TOKENS_PER_WORD = 50  # of the vocabulary
_STEPS = 32  # sizes differ by so much of the length
_DOTS = "..."
_ASKED = slice(1, 4)  # ranks 2 to 4
_UNAMBIGUOUS = 53  # from here on rank 4 is always more frequent than rank 5


@dataclass(frozen=True, kw_only=True, slots=True)
class FrequentWords:
    """The official settings are constants here."""

    hidden_in: HiddenIn = None
    takes_words: bool = False
    answer_tokens: int = texts.FREQUENT_WORDS_ANSWER_TOKENS

    def smallest(self, request: Request) -> int:
        """The first of the official sizes at which there are three answers and no tie with a fourth."""
        first, step = self._room(request) // _WORD, self.step(request)
        return first - (first - _UNAMBIGUOUS) // step * step

    def largest(self, request: Request) -> int | None:
        return None

    def step(self, request: Request) -> int:
        return max(1, self._room(request) // _STEPS)

    def _room(self, request: Request) -> int:
        """Tokens of the prompt, at most."""
        return request.length - self.answer_tokens

    def write(self, draws: Draws, size: int, request: Request) -> Text:
        """size: N of the counts."""
        number = max(self._room(request) // _TOKENS_PER_WORD, _ASKED.stop + 1)
        found: dict[str, None] = {}
        while len(found) < number:
            found["".join(_LETTERS[letter] for letter in draws.several_below(len(_LETTERS), _WORD))] = None
        made_up = sorted(found)
        ranked = [made_up[place] for place in draws.order(number)]
        ranked[0] = _DOTS
        counts = [int(size * rank**-_ALPHA / _ZETA) for rank in range(1, number + 1)]
        repeated = [word for word, count in zip(ranked, counts, strict=True) for _ in range(count)]
        shuffled = [repeated[place] for place in draws.order(len(repeated))]
        answers = tuple(ranked[_ASKED])
        return Text(
            prompt=texts.FREQUENT_WORDS.format(context=" ".join(shuffled)),
            answers=answers,
            written=" " + " ".join(answers),
        )

"""Variable tracking: a chain of assignments in noise, and an example of one, solved, before it.

VAR ABCDE = 12345 ... VAR FGHIJ = VAR ABCDE ... Find all variables that are assigned the value 12345
                                                                    -> ABCDE FGHIJ KLMNO PQRST UVWXY
"""

from dataclasses import dataclass
from itertools import pairwise

from unimatrix.data.tasks.ruler import texts
from unimatrix.data.tasks.ruler.draws import Draws
from unimatrix.data.tasks.ruler.sample import HiddenIn, Request, Text, largest_within

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SMALLEST_VALUE, _VALUES = 10_000, 89_999
# of the example: tokens at most, and lines of noise at least
_EXAMPLE_TOKENS, _EXAMPLE_NOISE = 500, 5
_NAME, _EXAMPLE_NAME = 5, 3  # letters


@dataclass(frozen=True, kw_only=True, slots=True)
class Variables:
    """num_hops: assignments of one variable to the next; one more variable has the value."""

    num_hops: int = 4
    hidden_in: HiddenIn = "noise"
    takes_words: bool = False
    answer_tokens: int = texts.VARIABLES_ANSWER_TOKENS

    def smallest(self, request: Request) -> int:
        """A line of noise to each assignment."""
        return self.num_hops + 1

    def largest(self, request: Request) -> int | None:
        return None

    def step(self, request: Request) -> int:
        return 1

    def write(self, draws: Draws, size: int, request: Request) -> Text:
        """size: lines of noise."""
        names = self._names(draws, _NAME)
        value = _SMALLEST_VALUE + draws.below(_VALUES)
        prompt = self._prompt(names, value, sorted(draws.some_of(size, len(names))), size)
        written = " ".join(names)
        return Text(
            prompt=f"{self._example(draws, request)}\n\n{prompt}", answers=tuple(names), written=written
        )

    def _names(self, draws: Draws, letters: int) -> list[str]:
        """Different names; none of them is the word that assigns."""
        names: list[str] = []
        while len(names) <= self.num_hops:
            name = "".join(_LETTERS[letter] for letter in draws.several_below(len(_LETTERS), letters))
            if name not in (*names, "VAR"):
                names.append(name)
        return names

    def _prompt(self, names: list[str], value: int, places: list[int], size: int) -> str:
        chain = [f"VAR {names[0]} = {value}"]
        chain += [f"VAR {to} = VAR {of} " for of, to in pairwise(names)]
        lines = [texts.NOISE] * size
        for before, (place, assignment) in enumerate(zip(places, chain, strict=True)):
            lines.insert(place + before, assignment)
        return texts.VARIABLES.format(context="\n".join(lines), query=value, number=len(names))

    def _example(self, draws: Draws, request: Request) -> str:
        """With as much noise as fits into _EXAMPLE_TOKENS, and where not even the least does, with that."""
        names = self._names(draws, _EXAMPLE_NAME)
        value = _SMALLEST_VALUE + draws.below(_VALUES)

        def tokens(size: int) -> int:
            # where the assignments stand changes nothing
            return request.added + request.count(self._prompt(names, value, [*range(len(names))], size))

        size = largest_within(_EXAMPLE_TOKENS, tokens, smallest=_EXAMPLE_NOISE) or _EXAMPLE_NOISE
        places = sorted(draws.some_of(size, len(names)))
        return f"{self._prompt(names, value, places, size)} {' '.join(names)}"

"""Needles in a haystack: sentences with numbers, hidden in a text that says nothing of them.

... Here we go. There and back again.
One of the special magic numbers for red-fox is: 1234567.
The grass is green. ...   What is the special magic number for red-fox ...?      -> 1234567
"""

import re
from dataclasses import dataclass

from unimatrix.data.tasks.ruler import texts
from unimatrix.data.tasks.ruler.draws import Draws
from unimatrix.data.tasks.ruler.sample import Haystack, HiddenIn, Request, Text

_SMALLEST_NUMBER, _NUMBERS = 10**6, 9 * 10**6  # seven digits
# where in a text of one's own needles stand, in percent of its sentences
DEPTHS = tuple(round(100 * place / 39) for place in range(40))
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]* ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Needles:
    """num_keys: keys that have numbers. num_values: numbers of each. num_queries: keys that are asked for.

    hidden_in: where the official suite hides them; where it takes essays, it is the request's haystack here,
    or else noise too.
    """

    num_keys: int = 1
    num_values: int = 1
    num_queries: int = 1
    hidden_in: HiddenIn = "noise"
    takes_words: bool = True
    answer_tokens: int = texts.NEEDLES_ANSWER_TOKENS

    @property
    def num_needles(self) -> int:
        return self.num_keys * self.num_values

    def smallest(self, request: Request) -> int:
        """A sentence, or a word, to each needle."""
        return self.num_needles

    def largest(self, request: Request) -> int | None:
        return None

    def step(self, request: Request) -> int:
        return 1

    def write(self, draws: Draws, size: int, request: Request) -> Text:
        """size: sentences of noise, or words of a haystack."""
        assert request.words is not None
        keys: list[str] = []
        values: list[list[str]] = []
        while len(keys) < self.num_keys:
            key = request.words.key(draws.below(request.words.num_keys))
            if key not in keys:  # else one question would have two answers
                keys.append(key)
                values.append([str(_SMALLEST_NUMBER + draws.below(_NUMBERS)) for _ in range(self.num_values)])
        needles = [
            texts.NEEDLE.format(key=key, value=value)
            for key, its in zip(keys, values, strict=True)
            for value in its
        ]
        needles = [needles[place] for place in draws.order(len(needles))]
        if request.haystack is None or self.hidden_in == "noise":
            context = _in_noise(needles, draws, size)
        else:
            context = _in_haystack(needles, draws, size, request.haystack)
        asked = draws.some_of(self.num_keys, self.num_queries)
        names = [keys[number] for number in asked]
        query = names[0] if len(names) == 1 else f"{', '.join(names[:-1])}, and {names[-1]}"
        answers = tuple(value for number in asked for value in values[number])
        text = texts.NEEDLES_OF_ONE if len(answers) == 1 else texts.NEEDLES_OF_SEVERAL
        return Text(
            prompt=text.format(context=context, query=query),
            answers=answers,
            written=" " + ", ".join(answers),
        )


def _in_noise(needles: list[str], draws: Draws, size: int) -> str:
    """A line for each: the first needle stands last."""
    lines = [texts.NOISE] * size
    places = sorted(draws.some_of(size, len(needles)), reverse=True)
    for place, needle in zip(places, needles, strict=True):
        lines.insert(place, needle)
    return "\n".join(lines)


def _in_haystack(needles: list[str], draws: Draws, size: int, haystack: Haystack) -> str:
    """Between sentences of the haystack's first words, which begin again where they end."""
    whole, rest = divmod(size, len(haystack.words))
    found = sentences(" ".join(haystack.words * whole + haystack.words[:rest]))
    depths = sorted(DEPTHS[number] for number in draws.some_of(len(DEPTHS), len(needles)))
    pieces, before = [], 0
    for depth, needle in zip(depths, needles, strict=True):
        place = int(len(found) * (depth / 100))
        pieces += [" ".join(found[before:place]), needle]
        before = place
    return " ".join([*pieces, " ".join(found[before:])])


def sentences(text: str) -> list[str]:
    """A text cut behind each . ! or ?, and the quotes and brackets that close there."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    cut = [text[start:end].rstrip(" ") for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    return [one for one in cut if one]

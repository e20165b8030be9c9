"""The words that keys and lists are made of."""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256

from unimatrix.extras import needs


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Each sorted and without repetition. all: what lists are drawn from."""

    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    all: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Of all words, by which rows are known to be of the same lists."""
        lists = (self.adjectives, self.nouns, self.all)
        return sha256("\n\n".join("\n".join(words) for words in lists).encode()).hexdigest()

    def key(self, number: int) -> str:
        """One of the adjective-noun pairs, numbered from 0 on."""
        adjective, noun = divmod(number, len(self.nouns))
        return f"{self.adjectives[adjective]}-{self.nouns[noun]}"

    @property
    def num_keys(self) -> int:
        return len(self.adjectives) * len(self.nouns)


@cache
def wonderwords() -> Words:
    """The official suite's: nouns, adjectives and verbs of the package wonderwords.

    Raises:
        MissingPackage: it is not installed.
    """
    needs("wonderwords")
    from wonderwords import RandomWord

    words = RandomWord()
    adjectives, nouns, verbs = (
        words.filter(include_categories=[category]) for category in ("adjective", "noun", "verb")
    )
    return Words(
        adjectives=tuple(sorted(set(adjectives))),
        nouns=tuple(sorted(set(nouns))),
        all=tuple(sorted({*adjectives, *nouns, *verbs})),
    )

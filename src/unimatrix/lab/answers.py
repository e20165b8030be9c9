"""A study's answer: one sentence in plain words, filled by what was measured and judged when it is read.

Nothing of it is written ahead of the numbers: what a sentence says of a claim follows its verdict.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from unimatrix.lab.claims import Claim, Quantity, conjunction
from unimatrix.lab.results import Samples

# samples in, a sentence out
Answer = Callable[[Samples], str]

NOT_MEASURED = "Not measured yet."


class Part(Protocol):
    """What a name in a sentence stands for."""

    def text(self, samples: Samples) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean over the seeds that have run, in so many digits; unit: what stands behind it."""

    quantity: Quantity
    digits: int
    unit: str = ""

    def text(self, samples: Samples) -> str | None:
        """None where no seed has run."""
        values = tuple(self.quantity.by_seed(samples).values())
        return f"{math.fsum(values) / len(values):,.{self.digits}f}{self.unit}" if values else None


@dataclass(frozen=True, slots=True)
class Said:
    """Words for each verdict on a claim, or on several together."""

    claims: tuple[Claim, ...]
    reproduced: str
    not_reproduced: str
    undecided: str

    def text(self, samples: Samples) -> str:
        """The words of the verdict."""
        words = {
            "reproduced": self.reproduced,
            "not reproduced": self.not_reproduced,
            "undecided": self.undecided,
        }
        return words[conjunction([claim.judge(samples).outcome for claim in self.claims])]


@dataclass(frozen=True, slots=True)
class Sentence:
    """An `Answer`: a template, and what the names in its braces stand for."""

    template: str
    parts: Mapping[str, Part | str]

    def __call__(self, samples: Samples) -> str:
        """The sentence; where not all that it counts has run, it says so."""
        texts = {
            name: part if isinstance(part, str) else part.text(samples) for name, part in self.parts.items()
        }
        means = [texts[name] for name, part in self.parts.items() if isinstance(part, Mean)]
        if means and not any(means):
            return NOT_MEASURED
        return self.template.format_map({name: text or "(not measured yet)" for name, text in texts.items()})


def sentence(template: str, **parts: Part | str) -> Sentence:
    """A `Sentence` of these parts; a text stands for itself."""
    return Sentence(template, parts)


def sentences(*each: Answer) -> Answer:
    """An `Answer` of several; what has not run at all is passed over, and says so where nothing has."""

    def answer(samples: Samples) -> str:
        said = [found for one in each if (found := one(samples)) != NOT_MEASURED]
        return " ".join(said) or NOT_MEASURED

    return answer

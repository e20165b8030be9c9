"""The same draws give the official suite's prompts, to the letter (scores: tests/evals/test_ruler.py).

official.json holds what the official code wrote, for words and a text of these tests' own.
"""

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest

from unimatrix.data.tasks import ruler
from unimatrix.data.tasks.ruler import RULER, Haystack, Request, Words

OFFICIAL = json.loads(Path(__file__).with_name("official.json").read_text(encoding="utf-8"))
COUNTS = {"bytes": lambda text: len(text.encode()), "words": lambda text: len(text.split())}
# what numpy draws there, and not Python: the value of a chain
VALUES = 89_999


class OfficialDraws:
    """Python's and numpy's generators, asked as the official code asks them; each text's begin anew."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.python, self.numpy = random.Random(seed), np.random.RandomState(seed)

    def below(self, number: int) -> int:
        return self.numpy.randint(number) if number == VALUES else self.python.randrange(number)

    def several_below(self, number: int, count: int) -> list[int]:
        return self.python.choices(range(number), k=count)

    def some_of(self, number: int, count: int) -> list[int]:
        return self.python.sample(range(number), count)

    def order(self, number: int) -> list[int]:
        """From a generator of its own every time."""
        order = list(range(number))
        random.Random(self.seed).shuffle(order)
        return order


class ChainDraws(OfficialDraws):
    """The example was written before, as a text of its own: its places were drawn behind its names."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.asked = 0

    def some_of(self, number: int, count: int) -> list[int]:
        self.asked += 1
        if self.asked == 1:
            return super().some_of(number, count)
        example = OfficialDraws(self.seed)
        for _ in range(count):
            example.several_below(26, 3)
        return example.some_of(number, count)


def named(case) -> str:
    haystack = "-haystack" if case["haystack"] else ""
    return f"{case['task']}{haystack}-{case['tokens']}-{case['length']}"


@pytest.mark.parametrize("case", OFFICIAL["cases"], ids=named)
def test_the_same_draws_give_the_same_prompt(case, monkeypatch) -> None:
    seed = case["seed"]
    verbs = [one + other for one in OFFICIAL["syllables"] for other in OFFICIAL["syllables"]]
    words = sorted({*OFFICIAL["adjectives"], *OFFICIAL["nouns"], *verbs})
    random.Random(seed).shuffle(words)  # there, before the first is drawn
    request = Request(
        length=case["length"],
        count=COUNTS[case["tokens"]],
        words=Words(adjectives=OFFICIAL["adjectives"], nouns=OFFICIAL["nouns"], all=tuple(words)),
        haystack=Haystack.from_bytes(OFFICIAL["haystack"].encode()) if case["haystack"] else None,
    )
    kind = ChainDraws if case["task"] == "vt" else OfficialDraws
    monkeypatch.setattr(ruler, "Draws", lambda seed, **_: kind(seed))
    # not only at the official size: it is found too
    sample = ruler.make_sample(case["task"], seed=seed, index=0, request=request)
    assert (sample.size, list(sample.answers)) == (case["size"], case["answers"])
    assert sample.prompt == case.get("text", sample.prompt)
    assert hashlib.sha256(sample.prompt.encode()).hexdigest() == case["sha256"]


def test_every_task_is_held_to_a_text_and_the_essay_s_tasks_to_a_haystack() -> None:
    assert {case["task"] for case in OFFICIAL["cases"] if "text" in case} == RULER.keys()
    in_essays = {name for name, task in RULER.items() if task.hidden_in == "essays"}
    assert {case["task"] for case in OFFICIAL["cases"] if case["haystack"]} == in_essays

"""RULER's tasks: what a model still finds, follows and counts in a long text; offline, by seed.

texts           the official texts, and how long answers may be
draws, words    what samples are drawn with, and from
sample          what a task is, and what it is asked for
needles, variables, common_words, frequent_words    the tasks

A sample is a prompt and what the answer should name. `length` counts both in tokens of the model that is
asked, and a sample fills it as far as its task goes. What differs from the official suite: docs/ruler.md.
"""

from dataclasses import dataclass, replace

from unimatrix.data.tasks.ruler.common_words import CommonWords
from unimatrix.data.tasks.ruler.draws import Draws
from unimatrix.data.tasks.ruler.frequent_words import FrequentWords
from unimatrix.data.tasks.ruler.needles import Needles
from unimatrix.data.tasks.ruler.sample import Haystack, Request, RulerTask, Text, largest_within
from unimatrix.data.tasks.ruler.variables import Variables
from unimatrix.data.tasks.ruler.words import Words, wonderwords
from unimatrix.errors import UserError

__all__ = [
    "RULER",
    "VERSION",
    "Draws",
    "Haystack",
    "Request",
    "RulerTask",
    "Sample",
    "Words",
    "WrongLength",
    "check_length",
    "make_sample",
    "shortest",
    "wonderwords",
]

# raised by hand when the same settings come to write other prompts
VERSION = 1

# with the official settings. The order numbers their streams of draws: a further one comes last
RULER: dict[str, RulerTask] = {
    "niah_single_1": Needles(),
    "niah_multikey_1": Needles(num_keys=4, hidden_in="essays"),
    "niah_multivalue": Needles(num_values=4, hidden_in="essays"),
    "niah_multiquery": Needles(num_keys=4, num_queries=4, hidden_in="essays"),
    "vt": Variables(),
    "cwe": CommonWords(),
    "fwe": FrequentWords(),
}
_NUMBERS = {name: number for number, name in enumerate(RULER)}


class WrongLength(UserError):
    """A length that a task has no sample of. briefly: what it would have to be, in a few characters."""

    def __init__(self, message: str, *, briefly: str) -> None:
        super().__init__(message)
        self.briefly = briefly


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A prompt and what its answer should name.

    written: as a right answer goes on behind the prompt. prompt_tokens, answer_tokens: how many tokens the
    prompt has, and the answer may have. size: sentences or words that were put in, see the task.
    """

    prompt: str
    answers: tuple[str, ...]
    written: str
    prompt_tokens: int
    answer_tokens: int
    size: int


def check_length(name: str, *, number: int, seed: int, request: Request) -> None:
    """Raise a WrongLength, a UserError, where a task has not the first `number` samples of this length.

    The length is too small for one of them, or more than all words fill.
    """
    least = shortest(name, number=number, seed=seed, request=request)
    if least > request.length:
        raise WrongLength(
            f"{name}: expected a length of at least {least:,} tokens, got {request.length:,}",
            briefly=f"from {least:,}",
        )
    most = RULER[name].largest(request)
    # all words fill the same in every sample, but for which of them are repeated more
    if most is not None and (fill := _tokens(_at(name, seed, 0, most, request))) < request.length:
        raise WrongLength(
            f"{name}: expected a length of at most {fill:,} tokens, which its {most:,} words fill, got"
            f" {request.length:,}",
            briefly=f"up to {fill:,}",
        )


def make_sample(name: str, *, seed: int, index: int, request: Request) -> Sample:
    """The sample of an index, as long as fits; no other hangs on it.

    Raises:
        WrongLength: a UserError; the length is too small for it.
    """
    task = RULER[name]
    size = largest_within(
        request.length,
        lambda size: _tokens(_at(name, seed, index, size, request)),
        smallest=task.smallest(request),
        step=task.step(request),
        most=task.largest(request),
    )
    if size is None:
        check_length(name, number=index + 1, seed=seed, request=request)
        raise AssertionError("the smallest size fits, and does not")
    return _at(name, seed, index, size, request)


def shortest(name: str, *, number: int, seed: int, request: Request) -> int:
    """The smallest length from the request's on at which there are the first `number` samples."""
    task = RULER[name]
    while True:
        size = task.smallest(request)
        needed = max(_tokens(_at(name, seed, index, size, request)) for index in range(number))
        if needed <= request.length:
            return request.length
        # a longer text may repeat more: the smallest one is another then
        request = replace(request, length=needed)


def _at(name: str, seed: int, index: int, size: int, request: Request) -> Sample:
    """The sample at a size, whether it fits or not."""
    task = RULER[name]
    text: Text = task.write(Draws(seed=seed, task=_NUMBERS[name], index=index), size, request)
    # what a right answer takes is always granted: in bytes ten words may be more than the official number
    answer_tokens = max(task.answer_tokens, request.count(text.written))
    return Sample(
        prompt=text.prompt,
        answers=text.answers,
        written=text.written,
        prompt_tokens=request.added + request.count(text.prompt),
        answer_tokens=answer_tokens,
        size=size,
    )


def _tokens(sample: Sample) -> int:
    return sample.prompt_tokens + sample.answer_tokens

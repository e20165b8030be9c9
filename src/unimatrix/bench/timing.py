"""How a duration is measured here: candidates take turns in one process, and the median is quoted.

How long many calls take together is the mean's to say: see `Timing`.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from unimatrix.errors import UserError

Key = TypeVar("Key")


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Seconds of one call: the median, the quartiles, the mean and the number of calls timed.

    The mean times a number of calls is how long these take, where the median leaves out what now and then
    takes longer.
    """

    median_s: float
    low_s: float
    high_s: float
    mean_s: float
    calls: int


def time_in_turns(
    candidates: Mapping[Key, Callable[[], object]],
    *,
    seconds: float = 6.0,
    min_rounds: int = 7,
    max_rounds: int = 200,
    warmup: int = 3,
    turn_s: float = 0.0,
    before: Mapping[Key, Callable[[], object]] | None = None,
    device: str = "cpu",
) -> dict[Key, Timing]:
    """Time every candidate once per round, round after round, after `warmup` untimed rounds.

    Taking turns lets a slow spell of the machine hit all candidates alike. Stops when about `seconds` are
    spent and min_rounds are done, or after max_rounds. A candidate's turn is as many calls as take turn_s
    seconds, at least one: so quick ones are timed often beside slow ones. before: what is done, untimed,
    before each call of a candidate.
    """
    before = dict.fromkeys(candidates, _nothing) | dict(before or {})
    assert before.keys() == candidates.keys()
    if min_rounds < 1 or seconds <= 0:
        raise UserError(f"rounds and seconds: expected positive numbers, got {min_rounds} and {seconds}")
    for _ in range(warmup):
        for name, call in candidates.items():
            before[name]()
            call()
    spent: dict[Key, list[float]] = {name: [] for name in candidates}
    begin = time.perf_counter()
    rounds = 0
    while rounds < max_rounds and (rounds < min_rounds or time.perf_counter() - begin < seconds):
        for name, call in candidates.items():
            turn = time.perf_counter()
            while True:
                before[name]()
                _finish(device)
                start = time.perf_counter()
                call()
                _finish(device)
                spent[name].append(time.perf_counter() - start)
                if time.perf_counter() - turn >= turn_s:
                    break
        rounds += 1
    return {name: _summary(values) for name, values in spent.items()}


def _nothing() -> None:
    pass


def _finish(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def _summary(values: list[float]) -> Timing:
    if len(values) == 1:
        only = values[0]
        return Timing(median_s=only, low_s=only, high_s=only, mean_s=only, calls=1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    mean = statistics.fmean(values)
    return Timing(median_s=median, low_s=low, high_s=high, mean_s=mean, calls=len(values))

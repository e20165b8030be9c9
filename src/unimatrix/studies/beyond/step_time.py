"""How long a step of each model of the fair fight takes: what its number of steps follows from.

A fight has the machine to itself and lasts for minutes. So each model's turn is half a second, long enough to
have the caches to itself, its first step untimed, as that one finds another model's numbers in them; and what
counts is the mean, which times a number of steps is how long they take. A single step in turn and the median,
as the search's single runs are timed, would make small models look slower and leave out every slow step.
"""

from collections.abc import Mapping
from functools import partial

import torch

from unimatrix.bench.timing import time_in_turns
from unimatrix.data import Corpus
from unimatrix.lab.measured import Stopped
from unimatrix.lab.training import computing_with
from unimatrix.train.config import Experiment
from unimatrix.train.interrupts import Interrupts
from unimatrix.train.launch import start_accelerator
from unimatrix.train.run import Run
from unimatrix.train.sources import source_of

TURN_SECONDS = 0.5


def mean_step(
    experiments: Mapping[str, Experiment], corpus: Corpus, *, threads: int, seconds: float
) -> dict[str, float]:
    """The mean seconds of a training step of each, in turns in this process; all of its loop's work.

    Args:
        seconds: of the timing, in all; five rounds at least.
    Raises:
        Stopped: Ctrl-C or SIGTERM came; between steps, as what is raised within compiled code may be lost.
    """
    with computing_with(threads), torch.random.fork_rng(devices=[]), Interrupts() as interrupts:

        def step(run: Run) -> None:
            if interrupts.signal is not None:
                raise Stopped(interrupts.signal)
            run.train_step()

        accelerator = start_accelerator(next(iter(experiments.values())))
        runs = {
            name: Run(found, source=source_of(found, corpus), accelerator=accelerator, data={})
            for name, found in experiments.items()
        }
        timed = time_in_turns(
            {name: partial(step, run) for name, run in runs.items()},
            seconds=seconds,
            min_rounds=5,
            warmup=2,
            turn_s=TURN_SECONDS,
            settle=True,
        )
    return {name: timing.mean_s for name, timing in timed.items()}

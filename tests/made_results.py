"""Result rows made by hand, for the tests that need no training."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import pytest

from unimatrix.data.tasks import MQARConfig, RecallConfig, SignalNoiseConfig, mqar
from unimatrix.evals.compressors import COMPRESSORS
from unimatrix.lab.identity import resolve
from unimatrix.lab.results import Result
from unimatrix.studies.beyond.streaming import BY_POSITION
from unimatrix.studies.catalogue import experiment
from unimatrix.train import Experiment, describe

TEXT = {
    "name": "wikitext-2-raw",
    "kind": "text",
    "notes": ["valid and test are the official files."],
    "is_paper_corpus": True,
    "train": {"sha256": "6707892f" + "0" * 56, "bytes": 10_940_747},
    "valid": {"sha256": "4cd0f687" + "0" * 56, "bytes": 1_146_846},
}
PARAMETERS = {
    "text": {
        "transformer": 174_848,
        "unimatrix-core": 83_140,
        "unimatrix-rosa": 103_876,
        "unimatrix-discovery": 115_184,
        "unimatrix-rosa-exact": 103_876,
        "unimatrix-discovery-exact": 115_184,
        "triple-latent": 187_928,
        "triple-slot": 188_024,
        "triple-hybrid": 208_472,
        "recurrent-ffn": 173_888,
        "recurrent-ffn-readout": 198_464,
        "recurrent-ffn-hybrid": 174_080,
        "mamba2": 174_008,
        "m2rnn": 173_810,
        # with positions, which their runs have none of
        "transformer-modern": 163_712,
        "unimatrix-hybrid": 191_368,
        "unimatrix-assoc": 99_588,
        "unimatrix-sparse-pointer": 87_494,
    },
    "task": {
        "transformer": 162_368,
        "unimatrix-core": 70_660,
        "unimatrix-rosa": 78_916,
        "unimatrix-discovery": 83_984,
        "unimatrix-rosa-exact": 78_916,
        "unimatrix-discovery-exact": 83_984,
        "unimatrix-assoc": 87_108,
        "unimatrix-sparse-pointer": 75_014,
        "triple-latent": 175_448,
        "triple-slot": 175_544,
        "triple-hybrid": 195_992,
        "transformer-triple": 107_664,
        "typed-latent": 18_496,
        "recurrent-ffn": 157_312,
        "recurrent-ffn-readout": 181_888,
        "recurrent-ffn-hybrid": 157_504,
        "mamba2": 161_528,
        "m2rnn": 161_330,
    },
}
# where one preset has several sizes
OTHER_SIZES = {
    "table1.rosa-exact-vote": 103_893,
    "table1.discovery-exact-vote": 115_201,
    "recall.rosa-exact-vote": 78_933,
    "recall.discovery-exact-vote": 84_001,
    "table2.triple-latent-d60": 170_424,
    "table2.triple-slot-d60": 170_520,
    "table2.triple-hybrid-d56": 169_424,
    "triple.sparse-pointer": 69_254,
    "triple.sparse-pointer-10x": 69_254,
    # half as many positions
    "recall64.transformer": 158_272,
    "signal-noise.transformer": 158_272,
}


def task_metrics(accuracy: Mapping[str, float]) -> dict[str, float]:
    """{"": 25.0, "_4_pairs": ...} -> a task's metrics: each accuracy, and a loss that falls with it."""
    metrics = {f"accuracy{suffix}": value for suffix, value in accuracy.items()}
    return metrics | {f"loss{suffix}": 2.0 - value / 100 for suffix, value in accuracy.items()}


def make_result(
    name: str | Experiment, seed: int, value: float | Sequence[float], **changes: object
) -> Result:
    """A finished run of an experiment, or of the catalogue's of that name; `changes` replaces fields.

    value: bits per byte, or accuracy in percent; or those at the asked steps; or accuracy with 4, 6 and 8
        pairs, the first of which is the task's own; or those of the four rules.
    """
    recipe = experiment(name) if isinstance(name, str) else name
    name = recipe.name
    recipe = dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, seed=seed))
    several = [value] * 4 if isinstance(value, int | float) else value
    task, asked = recipe.task, recipe.loop.eval_at or ()
    if task is None:
        metrics, data = {"bpb": several[-1], "ppl": 2.0 ** several[-1]}, TEXT
        if recipe.loop.stream_bytes is not None:
            metrics |= {f"{name}_bpb": several[-1] for name in ("windows", "stream", *COMPRESSORS)}
            metrics |= {column.key: several[-1] for column in BY_POSITION}
    elif isinstance(task, RecallConfig):
        variants = zip(task.eval_num_pairs, several, strict=False)
        suffixes = {"": several[-1] if asked else several[0]} | {
            f"_{number}_pairs": accuracy for number, accuracy in variants
        }
        metrics, data = task_metrics(suffixes), describe(task)
    elif isinstance(task, MQARConfig):
        cells = {f"_{name}": several[-1] for name in mqar.variants(task)}
        metrics, data = task_metrics({"": several[0]} | cells), describe(task)
    elif isinstance(task, SignalNoiseConfig):
        metrics, data = task_metrics({"": several[-1]}), describe(task)
    else:
        by_rule = {f"_{rule}": accuracy for rule, accuracy in zip(task.rules, several, strict=True)}
        metrics, data = task_metrics({"": sum(several) / 4} | by_rule), describe(task)
    headline = "bpb" if task is None else "accuracy"
    metrics |= {f"{headline}_{step}_steps": found for step, found in zip(asked, several, strict=False)}
    metrics |= {f"seconds_{step}_steps": 0.05 * step for step in asked}
    row = Result(
        experiment=name,
        model=recipe.model.preset,
        seed=seed,
        steps=recipe.loop.steps,
        parameters=OTHER_SIZES.get(name)
        or PARAMETERS.get(data["kind"], {}).get(recipe.model.preset, 100_000),
        metrics=metrics,
        seconds=40.0,
        tokens_per_second=4096.0,
        data=data,
        git_commit="0123456789abcdef",
        versions={"python": "3.11", "torch": "2.13", "numpy": "2.3", "unimatrix": "0.1.0"},
        machine="A processor, 2 CPU threads, Linux x86_64",
        threads=2,
        device="cpu",
        backend="chunked",
        date_utc="2026-01-01T00:00:00+00:00",
        config=recipe.to_dict(),
        resolved=resolve(recipe),
    )
    return dataclasses.replace(row, **changes)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def result() -> Callable[..., Result]:
    return make_result


@pytest.fixture
def samples() -> Callable[..., dict[str, dict[int, Result]]]:
    """samples({"table1.transformer": {7: 5.1, ...}, ...}) -> experiment -> seed -> row; see `make_result`."""

    def build(values: dict[str, dict[int, float]]) -> dict[str, dict[int, Result]]:
        return {
            name: {seed: make_result(name, seed, value) for seed, value in seeds.items()}
            for name, seeds in values.items()
        }

    return build

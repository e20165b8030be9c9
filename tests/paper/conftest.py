"""Result rows made by hand, for the tests that need no training."""

import dataclasses
from collections.abc import Callable

import pytest

from unimatrix.paper.experiments import experiment
from unimatrix.paper.results import Result

TEXT = {
    "name": "wikitext-2-raw",
    "notes": ["valid and test are the official files."],
    "is_paper_corpus": True,
    "train": {"sha256": "6707892f" + "0" * 56, "bytes": 10_940_747},
    "valid": {"sha256": "4cd0f687" + "0" * 56, "bytes": 1_146_846},
}
PARAMETERS = {
    "table1.transformer": 174_848,
    "table1.unimatrix-core": 83_140,
    "table1.unimatrix-rosa": 103_876,
    "table1.unimatrix-discovery": 115_184,
}


def make_result(name: str, seed: int, bpb: float, **changes: object) -> Result:
    """A finished run of one of Table 1's experiments; `changes` replaces fields."""
    recipe = experiment(name)
    recipe = dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, seed=seed))
    row = Result(
        experiment=name,
        model=recipe.model.preset,
        seed=seed,
        steps=recipe.loop.steps,
        parameters=PARAMETERS[name],
        bpb=bpb,
        ppl=2.0**bpb,
        seconds=40.0,
        tokens_per_second=4096.0,
        data=TEXT,
        git_commit="0123456789abcdef",
        versions={"python": "3.11", "torch": "2.13", "numpy": "2.3", "unimatrix": "0.1.0"},
        machine="A processor, 2 CPU threads, Linux x86_64",
        threads=2,
        device="cpu",
        backend="chunked",
        date_utc="2026-01-01T00:00:00+00:00",
        config=recipe.to_dict(),
    )
    return dataclasses.replace(row, **changes)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def result() -> Callable[..., Result]:
    return make_result


@pytest.fixture
def samples() -> Callable[..., dict[str, dict[int, Result]]]:
    """samples({"table1.transformer": {7: 5.1, ...}, ...}) -> experiment -> seed -> row."""

    def build(values: dict[str, dict[int, float]]) -> dict[str, dict[int, Result]]:
        return {
            name: {seed: make_result(name, seed, bpb) for seed, bpb in seeds.items()}
            for name, seeds in values.items()
        }

    return build

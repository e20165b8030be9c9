"""Streams of random numbers: different numbers never meet, small ones draw what they always drew."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import unimatrix
from unimatrix.data import random_windows
from unimatrix.data.streams import _CODES, bit_generator, torch_seed
from unimatrix.data.tasks import TASKS
from unimatrix.errors import UserError
from unimatrix.train.state import seed_process

WORD = 2**32
TEXT = np.random.default_rng(0).integers(0, 256, 100_000).astype(np.uint8)

# what collides most readily: small numbers, and the same words at other places
words = st.sampled_from([0, 1, 2, 5, 7, WORD - 1])
numbers = st.builds(lambda low, high: low + WORD * high, words, words | st.just(0)) | st.integers(
    0, 2**63 - 1
)


def batch(kind, seed, step, stream):
    if kind == "text":
        return random_windows(TEXT, seed=seed, step=step, batch_size=8, seq_len=1)
    task = TASKS[kind]
    return task.make(task.config(), seed=seed, step=step, batch_size=4, stream=stream).input_ids


@pytest.mark.parametrize("kind", ["text", *TASKS])
def test_no_training_batch_is_an_evaluation_batch_of_another_seed(kind):
    # as words joined together each is another one
    drawn = [
        batch(kind, 5 + 7 * WORD, 1, "train"),
        batch(kind, 5, 7, "train"),
        batch(kind, 5, 7 + WORD, "train"),
    ]
    drawn += [] if kind == "text" else [batch(kind, 5, 7, "eval"), batch(kind, 5 + 7 * WORD, 0, "eval")]
    assert len({rows.numpy().tobytes() for rows in drawn}) == len(drawn)


@pytest.mark.parametrize("purpose", _CODES)
@given(
    first=st.tuples(numbers, numbers, st.integers(0, 3)),
    second=st.tuples(numbers, numbers, st.integers(0, 3)),
)
def test_different_numbers_have_different_streams(purpose, first, second):
    assume(first != second)
    one, other = (
        bit_generator(purpose, **dict(zip(("seed", "step", "stream"), values, strict=True))).random_raw(2)
        for values in (first, second)
    )
    assert one.tolist() != other.tolist()


@given(values=st.tuples(numbers, numbers), purposes=st.permutations(list(_CODES)))
def test_different_purposes_have_different_streams(values, purposes):
    # the older ones, a text's, a task's and a process's, share those of small numbers; see _WITHOUT_CODE
    assume(
        values[0] >= WORD or values[1] >= WORD or not {"windows", "sequences", "process"} >= set(purposes[:2])
    )
    one, other = (bit_generator(name, seed=values[0], step=values[1]).random_raw(2) for name in purposes[:2])
    assert one.tolist() != other.tolist()


@pytest.mark.parametrize("purpose", ["weights", "sampling"])
def test_torch_starts_elsewhere_for_every_seed(purpose):
    drawn = set()
    for seed in (5, 5 + WORD, 5 + 7 * WORD, 5 + 2**63):
        generator = torch.Generator().manual_seed(torch_seed(purpose, seed=seed))
        drawn.add(tuple(torch.rand(3, generator=generator).tolist()))
    assert len(drawn) == 4


def test_processes_of_every_seed_draw_differently():
    drawn = set()
    with torch.random.fork_rng(devices=[]):
        for seed, process in ((5, 7), (5 + 7 * WORD, 0), (5 + WORD, 7), (5, 0)):
            seed_process(seed, process_index=process)
            drawn.add(tuple(torch.rand(3).tolist()))
    assert len(drawn) == 4


@given(seed=st.integers(0, WORD - 1), step=st.integers(0, WORD - 1), stream=st.integers(0, 1))
def test_small_numbers_draw_what_they_always_drew(seed, step, stream):
    def expected(*arguments, **named):
        return np.random.PCG64(np.random.SeedSequence(*arguments, **named)).random_raw(2).tolist()

    assert bit_generator("windows", seed=seed, step=step).random_raw(2).tolist() == expected((seed, step))
    assert bit_generator("sequences", seed=seed, step=step, stream=stream).random_raw(2).tolist() == expected(
        (seed, step, stream)
    )
    assert bit_generator("table", table_seed=seed).random_raw(2).tolist() == expected(seed, spawn_key=(1,))
    state = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)
    assert torch_seed("process", seed=seed, process=step) == int(state[0])
    assert torch_seed("weights", seed=seed) == torch_seed("sampling", seed=seed) == seed


@pytest.mark.parametrize("value", [-1, 2**64])
def test_numbers_that_have_no_stream_are_named(value):
    with pytest.raises(UserError, match=f"^step: expected at least 0 and below 2\\^64, got {value}$"):
        bit_generator("windows", seed=0, step=value)


# nobody's seed counts here, 0 or 1 is written out: bench measures speed, a power iteration needs some start
CONSTANT = ("bench/", "mixers/spectral.py")
# every other file that makes or seeds a generator
SEEDING = {
    "data/streams.py": {"np.random.PCG64", "np.random.SeedSequence"},
    "train/state.py": {"torch.manual_seed"},
    "train/run.py": {"torch.manual_seed"},
    "hf/reading.py": {"torch.Generator", "torch.Generator(device).manual_seed"},
}
MAKERS = ("np.random.", "numpy.random.", "random.", "torch.Generator", "torch.manual_seed", "torch.seed")


def test_every_generator_of_the_project_is_seeded_by_a_stream():
    root = Path(unimatrix.__file__).parent
    found: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*.py")):
        file = path.relative_to(root).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not (name := ast.unparse(node.func)).startswith(MAKERS):
                continue
            if file.startswith(CONSTANT) and (not node.args or isinstance(node.args[0], ast.Constant)):
                continue
            found.setdefault(file, set()).add(name)
            if name == "torch.manual_seed":
                assert ast.unparse(node.args[0]).startswith("torch_seed("), file
    assert found == SEEDING
    assert "manual_seed(torch_seed(" in (root / "hf/reading.py").read_text()

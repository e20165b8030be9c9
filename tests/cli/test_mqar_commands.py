"""The commands on the mqar task, which no recipe names: --task, cells of lengths and pairs, many answers."""

import contextlib
import io
import json
import re
import shutil
from types import SimpleNamespace

import pytest

from unimatrix.cli import evaluate, main
from unimatrix.data.tasks import TASKS, MQARConfig
from unimatrix.train import Experiment

MQAR = ["train", "--task", "mqar"]
SMALL = [
    *("--preset", "unimatrix-sparse-pointer", "--d-model", "8", "--num-heads", "2", "--depth", "1"),
    *("--state-dim", "4", "--batch-size", "2", "--vocab-size", "64", "--eval-sequences", "24"),
    *("--tracker", "none", "--device", "cpu"),
]
SCORE = r"accuracy \d+\.\d\d %, loss \d\.\d{4} nats per answer, chance 3\.12 %"


@pytest.fixture(scope="module")
def mqar_run(tmp_path_factory):
    """The folder of a finished run, and what it printed; tests only read it."""
    out = tmp_path_factory.mktemp("mqar") / "run"
    printed = io.StringIO()
    options = (
        "--length",
        "24",
        "--num-rebound",
        "2",
        "--filler",
        "clean",
        "--eval-cells",
        "32",
        "4",
        "64",
        "8",
        "--eval-tokens",
        "640",
    )
    with contextlib.redirect_stdout(printed):
        assert main([*MQAR, *SMALL, *options, "--steps", "3", "--out", str(out)]) == 0
    return out, printed.getvalue()


def test_train_takes_the_tasks_settings_and_ends_with_its_scores(mqar_run) -> None:
    out, printed = mqar_run
    used = Experiment.from_dict(json.loads((out / "run.json").read_text())["experiment"])
    assert (used.name, used.loop.seq_len, used.model.max_positions) == (
        "mqar-unimatrix-sparse-pointer",
        24,
        None,
    )
    assert used.task == MQARConfig(
        num_rebound=2,
        filler="clean",
        length=24,
        vocab_size=64,
        eval_cells=((32, 4), (64, 8)),
        eval_sequences=24,
        eval_tokens=640,
    )
    titles = ("", ", 32 tokens 4 pairs", ", 64 tokens 8 pairs")
    for title, line in zip(titles, printed.splitlines()[-3:], strict=True):
        assert re.fullmatch(f"mqar{title}: {SCORE}", line)


def test_eval_says_what_training_said_and_takes_other_lengths_and_pairs(call, refused, mqar_run) -> None:
    out, printed = mqar_run
    code, measured, err = call("eval", out, "--device", "cpu")
    assert (code, err) == (0, "")
    score, about, *variants = measured.splitlines()
    assert about == "mqar, 24 sequences of length 24 from seed 7"
    assert [f"mqar: {score}", *variants] == printed.splitlines()[-3:]
    # asked with a cell it is asked with nothing else, and none of what it asks for is left as it was
    _, cell, _ = call("eval", out, "--length", "64", "--num-pairs", "8", "--sequences", "10")
    assert f"mqar, 64 tokens 8 pairs: {cell.splitlines()[0]}" == variants[1]
    # of long sequences as few as in training
    assert call("eval", out, "--length", "64", "--num-pairs", "8")[1] == cell
    assert len(cell.splitlines()) == 2
    _, as_json, _ = call("eval", out, "--length", "1024", "--json")
    task = json.loads(as_json)["task"]
    assert (task["kind"], task["length"], task["num_pairs"], task["eval_cells"]) == ("mqar", 1024, 4, [])
    assert "length: expected at least 20, two tokens" in refused("eval", out, "--length", "18")
    complaint = f"--num-distractors: {out} was trained on the task mqar, which has no distractors"
    assert complaint in refused("eval", out, "--num-distractors", "3")


def test_a_cell_that_is_asked_for_has_no_keys_bound_again() -> None:
    """Where training counted them in a further evaluation, which has as many pairs as training."""
    task = MQARConfig(length=64, num_pairs=8, eval_rebound=4, eval_cells=((64, 8),), eval_tokens=1280)
    options = SimpleNamespace(checkpoint="run", length=None, num_pairs=2, num_distractors=None)
    expected = MQARConfig(length=64, num_pairs=2, eval_sequences=20, eval_tokens=1280)
    assert evaluate._asked(options, task) == expected
    options.num_pairs = None
    assert evaluate._asked(options, task) == task


def test_inspect_reads_a_sequence_up_to_its_last_question(call, mqar_run) -> None:
    out, _ = mqar_run
    code, printed, _ = call("inspect", out, "--json", "--sample", "2")
    traced = json.loads(printed)
    assert code == 0
    task = MQARConfig(num_rebound=2, filler="clean", length=24, vocab_size=64)
    batch = TASKS["mqar"].make(task, seed=7, step=0, batch_size=3, stream="eval")
    last = int((batch.labels[2] >= 0).nonzero()[-1])
    assert traced["expected"] == f"v{int(batch.labels[2, last]) - 31}"
    assert [step["token"] for step in traced["history"]["steps"]] == batch.input_ids[2, : last + 1].tolist()
    code, printed, _ = call("inspect", out, "--json", "--prompt", "k3 v7 k1 v2 BLANK k3")
    assert code == 0
    assert {"k3", "v7", "k1", "v2", "BLANK"} <= set(json.loads(printed)["names"].values())


def test_a_resumed_run_keeps_its_task_and_may_be_measured_on_more(refused, call, mqar_run, tmp_path) -> None:
    run = tmp_path / "run"
    shutil.copytree(mqar_run[0], run)
    resume = ("train", "--resume", "--out", run)
    assert "has num_rebound 2, got 1" in refused(*resume, "--num-rebound", "1")
    code, printed, err = call(*resume, "--steps", "4", "--eval-cells", "128", "8")
    assert (code, err) == (0, "")
    assert "4 steps in" in printed
    assert printed.splitlines()[-1].startswith("mqar, 128 tokens 8 pairs: accuracy")


@pytest.mark.parametrize("kind", TASKS)
def test_every_task_is_trained_on_without_a_recipe(call, kind) -> None:
    code, shown, _ = call("train", "--task", kind, "--help")
    assert code == 0
    assert re.search(rf"--length INT((?!--).)*\(default: {TASKS[kind].config().length}\)", shown, re.DOTALL)
    assert "--num-rebound" not in shown or kind == "mqar"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            ("--task", "mqra"),
            "task: expected one of recall, triple-interaction, signal-noise, mqar, got 'mqra'",
        ),
        (("--task", "mqar", "--experiment", "x"), "train: expected one of --task and --experiment, got both"),
        (("--task", "mqar", "poem.txt"), "text: mqar trains on the task mqar, got poem.txt too"),
        (("--task", "mqar", "--length", "65"), "length: expected an even number, got 65"),
        (("--task", "mqar", "--num-pairs", "17"), "length: expected at least 68, two tokens"),
        (("--task", "mqar", "--eval-cells", "64"), "--eval-cells: expected groups of 2 numbers, got '64'"),
        (("--task", "mqar", "--eval-cells", "64", "x"), "--eval-cells: expected groups of 2 numbers, got"),
        (("--task", "mqar", "--eval-cells", "8", "4"), "eval_cells 8 4: length: expected at least 16"),
        (
            ("--task", "mqar", "--max-positions", "64", "--eval-cells", "128", "4"),
            "evaluation on 128 tokens 4 pairs: expected a length of at most max_positions 64, got 128",
        ),
        (("--task", "recall", "--num-rebound", "1"), "train: unknown option '--num-rebound'"),
    ],
)
def test_bad_settings_are_one_line(refused, tmp_path, options, complaint) -> None:
    assert complaint in refused("train", *options, "--out", tmp_path / "never")
    assert not (tmp_path / "never").exists()

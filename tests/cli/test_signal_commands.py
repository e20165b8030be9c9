"""The commands on the signal-noise task: its own options, a score for each number of distractors."""

import contextlib
import io
import json
import re
import shutil

import pytest

from unimatrix.cli import main
from unimatrix.data.tasks import SignalNoiseConfig
from unimatrix.train import Experiment, LoopConfig, ModelChoice

SIGNAL = ["train", "--experiment", "signal-noise.tiny"]
EXPERIMENT = Experiment(
    name="signal-noise.tiny",
    model=ModelChoice(
        preset="unimatrix-sparse-pointer",
        dropout=0.0,
        max_positions=64,
        changes={"d_model": 8, "num_heads": 2, "depth": 1, "state_dim": 4, "slots": 8},
    ),
    task=SignalNoiseConfig(num_distractors=3, length=24, eval_sequences=24),
    loop=LoopConfig(steps=2, batch_size=2, seq_len=24, tracker="none", device="cpu"),
)
SCORE = r"accuracy \d+\.\d\d %, loss \d\.\d{4} nats per answer, chance 6\.25 %"


@pytest.fixture(autouse=True)
def _named_experiment(monkeypatch) -> None:
    monkeypatch.setattr("unimatrix.studies.catalogue.EXPERIMENTS", {"signal-noise.tiny": EXPERIMENT})


@pytest.fixture(scope="module")
def signal_run(tmp_path_factory):
    """The folder of a finished run, and what it printed; tests only read it."""
    out = tmp_path_factory.mktemp("signal") / "run"
    printed = io.StringIO()
    options = ("--num-noise", "5", "--eval-num-distractors", "0", "15", "--out", str(out))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr("unimatrix.studies.catalogue.EXPERIMENTS", {"signal-noise.tiny": EXPERIMENT})
        assert main([*SIGNAL, *options]) == 0
    return out, printed.getvalue()


def test_train_takes_the_tasks_settings_and_ends_with_its_scores(signal_run) -> None:
    out, printed = signal_run
    used = Experiment.from_dict(json.loads((out / "run.json").read_text())["experiment"])
    assert used.task == SignalNoiseConfig(
        num_distractors=3, num_noise=5, length=24, eval_num_distractors=(0, 15), eval_sequences=24
    )
    titles = ("", ", 0 distractors", ", 15 distractors")
    for title, line in zip(titles, printed.splitlines()[-3:], strict=True):
        assert re.fullmatch(f"signal-noise{title}: {SCORE}", line)


def test_eval_says_what_training_said_and_takes_another_number_of_distractors(call, signal_run) -> None:
    out, printed = signal_run
    code, measured, err = call("eval", out, "--device", "cpu")
    assert (code, err) == (0, "")
    score, about, *variants = measured.splitlines()
    assert about == "signal-noise, 24 sequences of length 24 from seed 7"
    assert [f"signal-noise: {score}", *variants] == printed.splitlines()[-3:]
    # asked with fifteen it is asked with nothing else
    _, fifteen, _ = call("eval", out, "--num-distractors", "15")
    assert variants[1] == f"signal-noise, 15 distractors: {fifteen.splitlines()[0]}"
    assert len(fifteen.splitlines()) == 2
    _, as_json, _ = call("eval", out, "--num-distractors", "0", "--json")
    task = json.loads(as_json)["task"]
    assert (task["kind"], task["num_distractors"], task["eval_num_distractors"]) == ("signal-noise", 0, [])


def test_eval_names_the_options_that_do_not_apply(refused, signal_run, small_run) -> None:
    out, _ = signal_run
    complaint = f"--num-pairs: {out} was trained on the task signal-noise, which has no pairs"
    assert complaint in refused("eval", out, "--num-pairs", "3")
    assert "num_distractors: expected at most 15" in refused("eval", out, "--num-distractors", "16")
    assert f"--num-distractors: {small_run} was trained on no task" in refused(
        "eval", small_run, "--num-distractors", "3"
    )


def test_inspect_reads_a_sequence_of_the_task_or_symbols(call, refused, signal_run) -> None:
    out, _ = signal_run
    code, printed, _ = call("inspect", out, "--json", "--sample", "2")
    traced = json.loads(printed)
    assert code == 0
    assert re.fullmatch(r"v\d+", traced["expected"])
    assert len(traced["history"]["steps"]) == 24
    code, printed, _ = call("inspect", out, "--json", "--prompt", "BOS n3 v7 MARK v2 n44 QUERY")
    assert code == 0
    assert {"BOS", "n3", "v7", "MARK", "v2", "n44", "QUERY"} <= set(json.loads(printed)["names"].values())
    assert "expected symbols among BOS, QUERY, MARK, v1 to v16" in refused("inspect", out, "--prompt", "k1")


def test_its_options_are_shown_and_no_other_tasks(call, refused) -> None:
    code, shown, _ = call(*SIGNAL, "--help")
    assert code == 0
    assert re.search(r"--num-distractors ((?!--).)*\(default: 3\)", shown, re.DOTALL)
    assert "--num-pairs INT" not in shown
    assert "unknown option '--num-pairs'" in refused(*SIGNAL, "--num-pairs", "4")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            ("--num-distractors", "16"),
            "num_distractors: expected at most 15, one less than num_values, got 16",
        ),
        (("--num-noise", "45"), "num_noise: expected at most 44"),
        (("--length", "6"), "length: expected at least 7"),
        (("--length", "65"), "seq_len: expected at most max_positions 64, got 65"),
        (("--data", "embedded"), "signal-noise.tiny trains on the task signal-noise, got --data too"),
    ],
)
def test_bad_settings_are_one_line(refused, tmp_path, options, complaint) -> None:
    assert complaint in refused(*SIGNAL, *options, "--out", tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_resumed_run_keeps_its_task_and_may_be_measured_on_more(
    refused, call, signal_run, tmp_path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(signal_run[0], run)
    resume = ("train", "--resume", "--out", run)
    assert "has num_distractors 3, got 4" in refused(*resume, "--num-distractors", "4")
    code, printed, err = call(*resume, "--steps", "3", "--eval-num-distractors", "7")
    assert (code, err) == (0, "")
    assert "3 steps in" in printed
    assert printed.splitlines()[-1].startswith("signal-noise, 7 distractors: accuracy")

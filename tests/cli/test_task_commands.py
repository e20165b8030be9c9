"""The commands on a task: its settings are options, its score is what is printed, a text has no place."""

import json
import re
import shutil

import pytest

from unimatrix.cli.arguments import is_given
from unimatrix.train import Experiment, load_checkpoint

RECALL = ["train", "--experiment", "recall.unimatrix-core"]
SMALL = [
    *("--d-model", "8", "--num-heads", "2", "--depth", "1", "--state-dim", "4"),
    *(
        "--batch-size",
        "2",
        "--length",
        "16",
        "--eval-sequences",
        "40",
        "--tracker",
        "none",
        "--device",
        "cpu",
    ),
]
SCORE = r"accuracy \d+\.\d\d %, loss \d\.\d{4} nats per answer, chance 12\.50 %"


@pytest.fixture(scope="module")
def recall_run(tmp_path_factory):
    """The folder of a finished run on the recall task, and what it printed; tests only read it."""
    import contextlib
    import io

    from unimatrix.cli import main

    out = tmp_path_factory.mktemp("recall") / "run"
    printed = io.StringIO()
    settings = ("--num-pairs", "3", "--eval-num-pairs", "5", "--steps", "3", "--out", str(out))
    with contextlib.redirect_stdout(printed):
        assert main([*RECALL, *SMALL, *settings]) == 0
    return out, printed.getvalue()


def test_train_takes_the_tasks_settings_and_ends_with_its_scores(recall_run) -> None:
    out, printed = recall_run
    used = Experiment.from_dict(json.loads((out / "run.json").read_text())["experiment"])
    assert used.task is not None
    assert (used.task.num_pairs, used.task.length, used.loop.seq_len) == (3, 16, 16)
    assert used.task.eval_num_pairs == (5,)
    *_, own, five = printed.splitlines()
    assert re.fullmatch(f"recall: {SCORE}", own)
    assert re.fullmatch(f"recall, 5 pairs: {SCORE}", five)
    assert f"To measure it again: unimatrix eval {out}\n" in printed
    assert "bits per byte" not in printed
    assert "unimatrix generate" not in printed


def test_train_of_a_task_is_resumed_by_its_folder_alone(call, refused, recall_run, tmp_path) -> None:
    run = tmp_path / "run"
    shutil.copytree(recall_run[0], run)
    assert "has num_pairs 3, got 4" in refused("train", "--resume", "--out", run, "--num-pairs", "4")
    code, printed, err = call("train", "--resume", "--out", run, "--steps", "5")
    assert (code, err) == (0, "")
    assert "5 steps in" in printed
    assert load_checkpoint(run / "checkpoint-000005").trainer.experiment.task.num_pairs == 3


def test_train_of_a_task_takes_no_text(refused, call, tmp_path) -> None:
    complaint = "recall.unimatrix-core trains on the task recall, got {} too"
    assert complaint.format("--data") in refused(*RECALL, "--data", "embedded")
    assert complaint.format("--data-dir") in refused(*RECALL, "--data_dir", tmp_path)
    assert complaint.format("poem.txt") in refused(*RECALL, "poem.txt")
    # and a text has no pairs
    assert "unknown option '--num-pairs'" in refused("train", "poem.txt", "--num-pairs", "4")
    shown = {name: call(*start, "--help")[1] for name, start in (("task", RECALL), ("text", ["train"]))}
    assert "--num-keys" in shown["task"]
    assert "--num-keys" not in shown["text"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--num-pairs", "9"), "num_pairs: expected at most num_keys 8, got 9"),
        (("--num-pairs", "four"), "--num-pairs: expected a whole number, got 'four'"),
        (("--length", "10"), "length: expected at least 11"),
        (("--length", "64", "--seq-len", "32"), "seq_len: expected the task's length 64, got 32"),
        (("--length", "256"), "seq_len: expected at most max_positions 128, got 256"),
        (("--num-fillers", "46"), "num_fillers: expected at most 45"),
        (("--placement", "end"), "--placement"),
        (("--eval-bytes", "9"), "eval_bytes: a task has no text"),
        (("--slots", "8"), "preset unimatrix-core: unknown setting 'slots'"),
    ],
)
def test_bad_settings_of_a_task_are_one_line(refused, tmp_path, options, complaint) -> None:
    assert complaint in refused(*RECALL, *options, "--out", tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_eval_of_a_task_says_what_training_said(call, recall_run) -> None:
    out, printed = recall_run
    code, measured, err = call("eval", out, "--device", "cpu")
    assert (code, err) == (0, "")
    score, about, variant = measured.splitlines()
    assert f"recall: {score}" in printed.splitlines()
    assert about == "recall, 40 sequences of length 16 from seed 7"
    assert variant == printed.splitlines()[-1]
    assert variant.startswith("recall, 5 pairs: accuracy")
    # asked with five pairs it is asked with nothing else
    _, five, _ = call("eval", out / "checkpoint-000003", "--num-pairs", "5")
    assert variant == f"recall, 5 pairs: {five.splitlines()[0]}"
    assert len(five.splitlines()) == 2


def test_eval_of_a_task_as_json_on_other_sequences(call, recall_run) -> None:
    out, _ = recall_run
    _, same, _ = call("eval", out, "--json", "--batch-size", "3")
    _, other, _ = call("eval", out, "--json", "--seed", "8", "--sequences", "100")
    same, other = json.loads(same), json.loads(other)
    assert (same["num_sequences"], same["seed"], same["chance"]) == (40, 7, 12.5)
    assert (same["task"]["kind"], same["task"]["num_pairs"]) == ("recall", 3)
    assert {name: part["num_sequences"] for name, part in same["variants"].items()} == {"5_pairs": 40}
    assert (other["num_sequences"], other["seed"]) == (100, 8)
    assert other["loss"] != same["loss"]


def test_eval_names_the_options_that_do_not_apply(refused, recall_run, small_run) -> None:
    out, _ = recall_run
    for option in (
        ("--split", "valid"),
        ("--data=x",),
        ("--data_dir", "x"),
        ("--window", "3"),
        ("--carry-state",),
    ):
        name = option[0].partition("=")[0].replace("_", "-")
        assert f"{name}: {out} was trained on the task recall and no text" in refused("eval", out, *option)
    for option in (("--sequences", "5"), ("--num-pairs", "4"), ("--seed", "1")):
        assert f"{option[0]}: {small_run} was trained on no task" in refused("eval", small_run, *option)
    assert "num_pairs: expected at most num_keys 8, got 9" in refused("eval", out, "--num-pairs", "9")
    assert "num_sequences: expected at least 1, got 0" in refused("eval", out, "--sequences", "0")
    assert "seed: expected at least 0, got -1" in refused("eval", out, "--seed", "-1")
    told = f"{out}: expected a model of text, got one trained on the task "
    assert told in refused("generate", out)
    assert told in refused("eval", out, "--ruler")


def test_eval_refuses_an_altered_checkpoint_of_a_task(refused, recall_run, tmp_path) -> None:
    run = tmp_path / "run"
    shutil.copytree(recall_run[0], run)
    weights = run / "checkpoint-000003" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert "model.safetensors: wrong checksum" in refused("eval", run)


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["--data-dir", "a"], True),
        (["--data_dir=a"], True),
        (["--data", "a"], False),
        (["a", "--resume", "--data-dir=a=b"], True),
        (["a-b"], False),
        ([], False),
    ],
)
def test_whether_an_option_is_given(arguments, given) -> None:
    assert is_given(arguments, "--data-dir") == given

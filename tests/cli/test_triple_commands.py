"""The commands on a second kind of task: its own options, a score for each rule, nothing of the first's."""

import contextlib
import io
import json
import re
import shutil

import pytest

from unimatrix.cli import main
from unimatrix.data.tasks import TripleInteractionConfig
from unimatrix.train import Experiment, LoopConfig, ModelChoice, OptimConfig

TRIPLE = ["train", "--experiment", "triple.tiny"]
RULES = ("copy", "affine", "gate", "lookup")
EXPERIMENT = Experiment(
    name="triple.tiny",
    model=ModelChoice(
        preset="unimatrix-sparse-pointer",
        dropout=0.0,
        max_positions=49,
        changes={"d_model": 8, "num_heads": 2, "depth": 1, "state_dim": 4, "slots": 8},
    ),
    task=TripleInteractionConfig(phase_steps=2, eval_sequences=24),
    optim=OptimConfig(lr=4e-4),
    loop=LoopConfig(steps=3, batch_size=2, seq_len=49, tracker="none", device="cpu"),
)
SCORE = r"accuracy \d+\.\d\d %, loss \d\.\d{4} nats per answer, chance (\d+\.\d\d) %"


@pytest.fixture(autouse=True)
def _named_experiment(monkeypatch) -> None:
    monkeypatch.setattr("unimatrix.studies.catalogue.EXPERIMENTS", {"triple.tiny": EXPERIMENT})


@pytest.fixture(scope="module")
def triple_run(tmp_path_factory):
    """The folder of a finished run, and what it printed; tests only read it."""
    out = tmp_path_factory.mktemp("triple") / "run"
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr("unimatrix.studies.catalogue.EXPERIMENTS", {"triple.tiny": EXPERIMENT})
        assert main([*TRIPLE, "--table-seed", "3", "--out", str(out)]) == 0
    return out, printed.getvalue()


def test_train_ends_with_a_score_for_all_rules_and_one_for_each(triple_run) -> None:
    out, printed = triple_run
    used = Experiment.from_dict(json.loads((out / "run.json").read_text())["experiment"])
    assert used.task == TripleInteractionConfig(phase_steps=2, eval_sequences=24, table_seed=3)
    scores = printed.splitlines()[-5:]
    chances = []
    for title, line in zip(["", *(f", {rule}" for rule in RULES)], scores, strict=True):
        found = re.fullmatch(f"triple-interaction{title}: {SCORE}", line)
        assert found, line
        chances.append(found[1])
    # the table of seed 3: its most frequent answer of 64 stands there seven times
    assert chances[1:] == ["6.25", "6.25", "6.25", "10.94"]
    assert f"To measure it again: unimatrix eval {out}\n" in printed


def test_eval_says_what_training_said(call, triple_run) -> None:
    out, printed = triple_run
    code, measured, err = call("eval", out, "--device", "cpu")
    assert (code, err) == (0, "")
    score, about, *rules = measured.splitlines()
    assert about == "triple-interaction, 24 sequences of length 49 from seed 7"
    assert [f"triple-interaction: {score}", *rules] == printed.splitlines()[-5:]


def test_eval_as_json_on_other_sequences(call, triple_run) -> None:
    out, _ = triple_run
    code, printed, _ = call("eval", out, "--json", "--sequences", "40", "--seed", "8")
    values = json.loads(printed)
    assert code == 0
    assert (values["num_sequences"], values["seed"]) == (40, 8)
    assert (values["task"]["kind"], values["task"]["rules"]) == ("triple-interaction", list(RULES))
    assert list(values["variants"]) == list(RULES)
    for part in values["variants"].values():
        assert set(part) == {"loss", "accuracy", "num_sequences", "chance"}
        assert part["num_sequences"] == 40
    assert values["chance"] < values["variants"]["lookup"]["chance"] == 100 * 7 / 64


def test_inspect_reads_a_sequence_of_the_task_or_symbols(call, refused, triple_run) -> None:
    out, _ = triple_run
    code, printed, _ = call("inspect", out, "--json", "--sample", "2")
    traced = json.loads(printed)
    assert code == 0
    assert re.fullmatch(r"v\d+", traced["expected"])
    assert len(traced["history"]["steps"]) == 49
    code, printed, _ = call("inspect", out, "--json", "--prompt", "BOS GATE t1 A v3 v4 t1 B f1 C v5 t1 t1")
    assert code == 0
    assert {"BOS", "GATE", "A", "t1", "v4", "f1"} <= set(json.loads(printed)["names"].values())
    assert "expected symbols among BOS, COPY" in refused("inspect", out, "--prompt", "BOS QUERY")


@pytest.mark.parametrize("things", ["pairs", "distractors"])
def test_eval_refuses_pairs_and_distractors(refused, triple_run, things) -> None:
    out, _ = triple_run
    complaint = f"--num-{things}: {out} was trained on the task triple-interaction, which has no {things}"
    assert complaint in refused("eval", out, f"--num-{things}", "3")
    assert "--window: " in refused("eval", out, "--window", "3")


def test_each_kind_of_task_has_its_own_options(call, refused) -> None:
    code, shown, _ = call(*TRIPLE, "--help")
    assert code == 0
    for option, default in (("--table-seed", "0"), ("--phase-steps", "2"), ("--eval-sequences", "24")):
        # up to the next option
        assert re.search(rf"{option} ((?!--).)*\(default: {default}\)", shown, re.DOTALL)
    assert "--num-pairs INT" not in shown
    assert "unknown option '--num-pairs'" in refused(*TRIPLE, "--num-pairs", "4")


def test_options_reach_the_task(call, tmp_path) -> None:
    out = tmp_path / "run"
    options = (
        *("--rules", "copy", "gate", "--phase-steps", "None", "--no-task-token"),
        *("--length", "50", "--max-positions", "50", "--steps", "1"),
    )
    code, printed, err = call(*TRIPLE, *options, "--out", out)
    assert (code, err) == (0, "")
    used = Experiment.from_dict(json.loads((out / "run.json").read_text())["experiment"])
    assert used.task == TripleInteractionConfig(
        rules=("copy", "gate"), phase_steps=None, task_token=False, length=50, eval_sequences=24
    )
    assert used.loop.seq_len == 50
    assert len(re.findall("^triple-interaction", printed, re.MULTILINE)) == 3


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--rules", "sum"), "rules: expected some of copy, affine, gate, lookup, each once"),
        (("--rules", "gate", "copy"), "in this order, got gate, copy"),
        (("--num-tags", "9"), "num_tags: expected at most num_tag_symbols 8, got 9"),
        (("--length", "30"), "length: expected at least 39"),
        (("--length", "64"), "seq_len: expected at most max_positions 49, got 64"),
        (("--vocab-size", "33"), "vocab_size: expected at least 34"),
        (("--data", "embedded"), "triple.tiny trains on the task triple-interaction, got --data too"),
    ],
)
def test_bad_settings_are_one_line(refused, tmp_path, options, complaint) -> None:
    assert complaint in refused(*TRIPLE, *options, "--out", tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_resumed_run_keeps_its_table_and_may_be_measured_on_more(
    refused, call, triple_run, tmp_path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(triple_run[0], run)
    for option, value, was in (("--table-seed", "4", "3"), ("--phase-steps", "3", "2")):
        name = option[2:].replace("-", "_")
        assert f"has {name} {was}, got {value}" in refused("train", "--resume", "--out", run, option, value)
    more = ("--steps", "4", "--eval-sequences", "30")
    code, printed, err = call("train", "--resume", "--out", run, *more)
    assert (code, err) == (0, "")
    assert "4 steps in" in printed

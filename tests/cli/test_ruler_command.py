"""`unimatrix eval --ruler`, of a model of ours and of another's."""

import json

import pytest
from tiny_llama import save_tiny_llama

from unimatrix import extras
from unimatrix.cli import ruler
from unimatrix.data.tasks.ruler import RULER


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


FEW = ("--samples", "2", "--device", "cpu")


def test_rows_a_table_and_a_figure(call, small_run, alone) -> None:
    command = ("eval", small_run, "--ruler", "fwe", "niah_single_1", "--lengths", "800", "900", *FEW)
    code, out, err = call(*command, "--figure", "heat.svg")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "RULER, 2 samples each from seed 42: percent of what should be named"
    assert [line.split()[0] for line in lines if line[1:2].isalpha() and line[0] == " "] == [
        "task",
        "fwe",
        "niah_single_1",
        "mean",
    ]
    assert "Rows: ruler.jsonl, 8 of this table, 8 of them new" in lines
    assert "Figure: heat.svg" in lines
    assert not [line for line in lines if "essays" in line]  # neither of these tasks
    rows = [json.loads(line) for line in (alone / "ruler.jsonl").read_text().splitlines()]
    assert [row["length"] for row in rows] == [800, 800, 900, 900] * 2
    drawn = (alone / "heat.svg").read_text()
    assert "niah_single_1" in drawn
    # again: all there
    code, out, _ = call(*command, "--json")
    found = json.loads(out)
    assert [(cell["task"], cell["length"], cell["samples"]) for cell in found["cells"]] == [
        ("fwe", 800, 2),
        ("fwe", 900, 2),
        ("niah_single_1", 800, 2),
        ("niah_single_1", 900, 2),
    ]
    assert found["model_sha256"] == rows[0]["model_sha256"]
    assert len((alone / "ruler.jsonl").read_text().splitlines()) == 8


def test_another_model_and_a_text_of_one_s_own(call, llama, alone) -> None:
    (alone / "text.txt").write_text("One came. Two saw. Three won. " * 9)
    asked = ("niah_multivalue", "--lengths", "1500", "--haystack", "text.txt", "--rows", "x/rows.jsonl")
    code, out, err = call("eval", llama, "--ruler", *asked, *FEW)
    assert (code, err) == (0, "")
    assert "essays" not in out
    row = json.loads((alone / "x/rows.jsonl").read_text().splitlines()[0])
    assert len(row["haystack"]) == 64
    _, out, _ = call("eval", llama, "--ruler", *asked[:3], *FEW)
    assert out.splitlines()[-1].startswith("Note: all needles lie in noise")


def test_without_names_all_tasks_are_asked_that_a_length_has_room_for(call, refused, llama) -> None:
    code, out, _ = call("eval", llama, "--lengths", "900", "--ruler", "--samples", "1", "--json")
    assert code == 0
    cells = {cell["task"]: cell for cell in json.loads(out)["cells"]}
    assert list(cells) == list(RULER)
    assert [name for name, cell in cells.items() if cell["samples"]] == ["niah_single_1", "fwe"]
    assert cells["vt"]["note"].startswith("from 1,")
    _, out, _ = call("eval", llama, "--lengths", "900", "--samples", "1", "--ruler")
    assert "0 of them new" in out
    assert cells["vt"]["note"] in out
    assert "mean" not in out
    assert "vt: expected a length of at least 1," in refused(
        "eval", llama, "--ruler", "vt", "--lengths", "900"
    )
    assert "at least" in refused("eval", llama, "--ruler", "--lengths", "90")


def test_a_stopped_run_says_how_to_go_on(call, llama, monkeypatch) -> None:
    def stopped(*_, progress, **__):
        progress(3)
        raise KeyboardInterrupt

    monkeypatch.setattr(ruler, "run_ruler", stopped)
    code, out, err = call("eval", llama, "--ruler", "fwe", "--lengths", "900", "--samples", "5")
    assert (code, out) == (130, "")
    assert err == "unimatrix: stopped after 3 of 5 samples; the same command goes on\n"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("vtt",), "tasks: unknown task 'vtt'; did you mean vt?"),
        (("vt", "--lengths", "4000"), "lengths: expected at most the model's 2,000 positions"),
        (("vt", "--samples", "0"), "samples: expected more than 0"),
        (("vt", "--lengths"), "--lengths: expected at least one, got none"),
        (("vt", "--data", "x"), "unknown option '--data'"),
        (("fwe", "--lengths", "900", "--seed", "-1"), "seed: expected at least 0"),
        (("fwe", "--lengths", "900", "--batch-size", "0"), "batch_size: expected more than 0"),
        (("niah_multivalue", "--haystack", "none.txt"), "--haystack: none.txt: expected a file, missing"),
        (("niah_multivalue", "--haystack", "empty.txt"), "haystack: expected words, got none"),
        (("vt", "--haystack", "empty.txt"), "--haystack: expected a task that hides needles in essays"),
        (("vt", "--figure", "no/x.png"), "figure: expected a file in a folder that is there, got no/x.png"),
        (("vt", "--figure", "x.gif"), "figure: expected a file ending in .png, .svg, .pdf"),
        (("vt", "--rows", "."), "expected a file, got a folder"),
        (("vt", "--rows", "empty.txt/x/rows.jsonl"), "expected a folder that is there, got"),
        (("fwe", "--lengths", "900", "--rows", "wrong.jsonl"), "wrong.jsonl, line 1: expected JSON"),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_line(refused, llama, alone, options, complaint) -> None:
    (alone / "empty.txt").write_text(" \n")
    (alone / "wrong.jsonl").write_text("no row\n")
    assert complaint in refused("eval", llama, "--ruler", *options)
    assert not (alone / "ruler.jsonl").exists()


def test_what_is_needed_is_told_before_anything_is_answered(call, llama, monkeypatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in ("altair", "wonderwords") else name)
    ruler.plan.__globals__["wonderwords"].cache_clear()
    code, out, err = call("eval", llama, "--ruler", "fwe", "--figure", "x.png")
    assert (code, out) == (2, "")
    assert err == "unimatrix eval: needs altair; pip install 'unimatrix-lm[paper]'\n"
    code, _, err = call("eval", llama, "--ruler", "--lengths", "900")
    assert (code, err) == (2, "unimatrix eval: needs wonderwords; pip install 'unimatrix-lm[eval]'\n")
    assert call("eval", llama, "--ruler", "fwe", "--lengths", "900", "--samples", "1")[0] == 0


def test_the_model_may_stand_behind_the_bare_flag(call, llama) -> None:
    few = ("--lengths", "900", "--samples", "1")
    for words in (("--ruler", llama, *few, "--device", "cpu"), ("--device", "cpu", "--ruler", llama, *few)):
        code, out, _ = call("eval", *words)
        assert (code, "niah_single_1" in out) == (0, True)


def test_help_shows_the_tasks(call) -> None:
    code, out, _ = call("eval", "--ruler", "--help")
    assert code == 0
    assert all(name in out for name in RULER)
    assert "--ruler" in call("eval", "--help")[1]

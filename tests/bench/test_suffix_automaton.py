"""The suffix automaton's measurement: what is compared, written, left out and refused; no speeds."""

import json

import pytest
import torch

from unimatrix import UserError
from unimatrix.bench import suffix_automaton as bench
from unimatrix.extras import MissingPackage
from unimatrix.ops import SuffixMatch

CASES = ["random bytes", "text", "a^n", "Fibonacci"]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat, and the dog sat on the cat. " * 20)
    return str(path)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, number in {"BATCH": 2, "SHORT": 40, "ROW": 60, "PIECE": 16, "DEFINED": 30}.items():
        monkeypatch.setattr(bench, name, number)


def measured(out, text, **more):
    said = []
    path = bench.run(out, data=text, length=100, lengths=(16, 50), seconds=0.01, say=said.append, **more)
    return json.loads(path.read_text()), said


def test_every_case_is_measured_beside_the_peer_and_equals_it(tmp_path, text):
    result, _ = measured(tmp_path, text)
    assert {"commit", "date", "machine", "threads", "versions", "data"} <= result.keys()
    assert result["peer"]["name"] == "rosa-torch"
    assert [row["case"] for row in result["rows"]] == CASES
    for row in result["rows"]:
        assert row["equal"] == {"the definition": 30, "rosa-torch": row["batch"] * row["length"]}
        assert row["ratio"] == pytest.approx(row["ms"]["rosa-torch"] / row["ms"]["unimatrix"])
        assert row["bytes_per_token"] > 8
    assert [row["position"] for row in result["steps"]] == [60, 80]
    for row in result["steps"]:
        assert row["us"].keys() == {"unimatrix", "rosa-torch"}
        assert row["low_us"]["unimatrix"] <= row["us"]["unimatrix"] <= row["slowest_us"]["unimatrix"]
    long = result["long"]
    assert len(long["ns_per_token"]) == 10
    assert long["last_over_second"] == pytest.approx(long["ns_per_token"][-1] / long["ns_per_token"][1])
    assert long["equal"]["rosa-torch"] == 100
    contexts = result["contexts"]
    assert contexts["position"] == 80
    for numbers in ("ns_per_token", "us", "slowest_us", "bytes_per_token"):
        assert contexts[numbers].keys() == {"automaton", "contexts"}
        assert all(number > 0 for number in contexts[numbers].values())
    assert {row["length"] for row in result["growth"]} == {16, 50}
    assert all(row["equal"]["rosa-torch"] == row["length"] for row in result["growth"])
    named = [row["case"] for row in result["growth"]]
    assert named[: len(named) // 2] == list(bench.words(torch.zeros(50, dtype=torch.int64), 50))


def test_without_the_peer_its_rows_are_left_out_and_it_is_said(tmp_path, text, monkeypatch):
    def needs(package):
        raise MissingPackage(package)

    monkeypatch.setattr(bench, "needs", needs)
    result, said = measured(tmp_path, text)
    why = "needs rosa; pip install 'unimatrix-lm[bench]'"
    assert said[0] == f"rosa-torch is left out: {why}"
    assert result["peer"] == {"left_out": why}
    assert all(row["ms"].keys() == {"unimatrix"} and "ratio" not in row for row in result["rows"])
    assert all(row["equal"] == {"the definition": 30} for row in result["rows"])


def test_a_peer_takes_no_more_than_it_can(tmp_path, text, monkeypatch):
    monkeypatch.setattr(bench, "PEER_MOST", 90)
    result, _ = measured(tmp_path, text)
    assert [set(row["us"]) for row in result["steps"]] == [{"unimatrix", "rosa-torch"}, {"unimatrix"}]
    assert result["long"]["equal"]["rosa-torch"] == 90


@pytest.mark.parametrize("whose", ["the definition", "rosa-torch"])
def test_nothing_is_timed_when_an_answer_is_wrong(tmp_path, text, monkeypatch, whose):
    right = bench.suffix_automaton

    def wrong(tokens, *state, **form):
        found, after = right(tokens, *state, **form)
        if not form:
            found = SuffixMatch(found.token.clone(), found.length, found.position)
            found.token[-1, 10 if whose == "the definition" else -1] += 1
        return found, after

    monkeypatch.setattr(bench, "suffix_automaton", wrong)
    monkeypatch.setattr(bench, "BATCH", 1)
    monkeypatch.setattr(bench, "time_in_turns", None)
    with pytest.raises(UserError, match=rf"^random bytes: the answers differ from those of {whose}"):
        measured(tmp_path, text)


@pytest.mark.parametrize(
    ("wrong", "said"), [(60, "contexts: the answers differ"), (1, "contexts: steps behind 80 tokens differ")]
)
def test_contexts_that_answer_otherwise_are_refused(tmp_path, text, monkeypatch, wrong, said):
    right = bench.context_continuations

    def other(tokens, *state, **form):
        found, after = right(tokens, *state, **form)
        return (found + 1 if tokens.shape[1] == wrong else found), after

    monkeypatch.setattr(bench, "context_continuations", other)
    with pytest.raises(UserError, match=f"^{said}"):
        measured(tmp_path, text)


def test_a_step_that_answers_otherwise_is_refused(tmp_path, text, monkeypatch):
    monkeypatch.setattr(bench._Peer, "step", lambda peer, state, token: token - 1000)
    with pytest.raises(UserError, match=r"^a step behind 60 tokens: the answers differ from those of rosa-"):
        measured(tmp_path, text)


def test_words_are_what_they_are_called():
    words = bench.words(torch.arange(100, 200), 13)
    told = {name: "".join("ab"[token] for token in words[name][0].tolist()) for name in list(words)[:4]}
    assert told == {
        "a^n": "a" * 13,
        "a^n b": "a" * 12 + "b",
        "Fibonacci": "abaababaabaab",
        "Thue-Morse": "abbabaabbaaba",
    }
    assert all(int(words[f"random over {k:,}"].max()) < k for k in bench.SYMBOLS)
    assert words["text"].tolist() == [list(range(100, 113))]


def test_what_cannot_be_measured_is_named(tmp_path, text):
    with pytest.raises(UserError, match=r"^data: expected at least 5,000 bytes, text.txt has 1,040$"):
        bench.run(tmp_path / "out", data=text, length=5000, lengths=(16,))
    with pytest.raises(UserError, match=r"^length: expected at least 10, got 9$"):
        bench.run(tmp_path / "out", data=text, length=9, lengths=(16,))
    assert not (tmp_path / "out").exists()

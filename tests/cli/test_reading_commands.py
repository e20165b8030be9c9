"""`unimatrix generate` on long texts: a file read in pieces, a state kept and gone on from."""

import os
import re

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from unimatrix.hf import Reader

SMALL = [
    *("--d-model", "8", "--num-heads", "2", "--depth", "1", "--state-dim", "4"),
    *("--batch-size", "2", "--seq-len", "16", "--tracker", "none"),
]
GREEDY = ("--temperature", "0")


@pytest.fixture
def corpus(small_run):
    return small_run.parent / "sea.txt"


def test_a_file_read_and_kept_is_a_prompt_of_the_same_text(call, small_run, corpus, tmp_path) -> None:
    start = corpus.read_text()
    code, whole, err = call("generate", small_run, "--prompt", start + "the sea", *GREEDY, "--no-echo")
    assert (code, err) == (0, "")
    generate = ("generate", small_run, *GREEDY)
    code, out, err = call(*generate, "--prompt-file", corpus, "--prompt", "the sea")
    assert (code, out, err) == (0, "the sea" + whole, "")
    state = tmp_path / "corpus.state"
    code, out, err = call(*generate, "--prompt-file", corpus, "--save-state", state, "--max-new-tokens", "0")
    assert (code, err) == (0, "")
    size = state.stat().st_size
    assert out == f"{state}: the state after {len(start):,} tokens, {size:,} bytes\n"
    assert size < 12_000
    code, out, err = call(*generate, "--load-state", state, "--prompt", "the sea")
    assert (code, out, err) == (0, "the sea" + whole, "")


def test_what_was_written_is_kept_too(call, small_run, corpus, tmp_path) -> None:
    one, two = tmp_path / "one.state", tmp_path / "two.state"
    generate = ("generate", small_run, *GREEDY)
    _, whole, _ = call(*generate, "--prompt", "the sea", "--max-new-tokens", "12")
    _, first, err = call(*generate, "--prompt", "the sea", "--max-new-tokens", "5", "--save-state", one)
    assert load_file(one)["position"].tolist() == [12]
    # no prompt: it goes on where the text ended
    go_on = (*generate, "--load-state", one, "--max-new-tokens", "7", "--save-state", two)
    code, rest, err = call(*go_on)
    assert (code, err) == (0, "")
    assert first.removesuffix("\n") + rest == whole
    # over itself
    call(*generate, "--load-state", two, "--save-state", two, "--max-new-tokens", "0")
    assert load_file(two)["position"].tolist() == [19]


def test_a_long_file_is_read_in_pieces_with_the_time_left(call, small_run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("unimatrix.cli.generate.STREAM_PIECE", 100)
    monkeypatch.setattr("unimatrix.cli.progress.LINE_SECONDS", 0.0)
    sizes = []
    read = Reader.read
    monkeypatch.setattr(Reader, "read", lambda self, data: sizes.append(len(data)) or read(self, data))
    text = tmp_path / "long.txt"
    text.write_bytes(bytes(range(250)))
    code, _, err = call("generate", small_run, "--prompt-file", text, "--max-new-tokens", "1")
    assert code == 0
    assert sizes == [100, 100, 50]
    lines = r"long\.txt: 100 of 250 bytes, left 0:\d\d:\d\d\nlong\.txt: 200 of 250 bytes, left 0:\d\d:\d\d\n"
    assert re.fullmatch(lines, err)


def test_ctrl_c_while_reading_is_told(call, small_run, corpus, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("unimatrix.cli.generate.STREAM_PIECE", 100)
    read = Reader.read

    def interrupted(self, data):
        if self.num_tokens >= 200:
            raise KeyboardInterrupt
        read(self, data)

    monkeypatch.setattr(Reader, "read", interrupted)
    arguments = ("generate", small_run, "--prompt-file", corpus)
    assert call(*arguments) == (130, "", "unimatrix: stopped after 200 tokens\n")
    state = tmp_path / "state"
    code, out, err = call(*arguments, "--save-state", state)
    assert (code, out, err) == (130, "", "unimatrix: stopped after 200 tokens; no state was saved\n")
    assert not list(tmp_path.iterdir())


def test_states_and_files_that_cannot_be_used(call, refused, small_run, corpus, tmp_path) -> None:
    state, other = tmp_path / "a.state", tmp_path / "run"
    generate = ("generate", small_run, "--max-new-tokens", "1")
    assert call(*generate, "--prompt", "x", "--save-state", state)[0] == 0
    call("train", corpus, *SMALL, "--steps", "1", "--out", other, "--max-positions", "16")
    assert "a state of another model, expected max_positions = 16, got None" in refused(
        "generate", other, "--load-state", state
    )
    call("train", corpus, *SMALL, "--steps", "1", "--out", other, "--overwrite")
    assert "a state of other weights" in refused("generate", other, "--load-state", state)
    with safe_open(state, framework="pt") as file:
        # as an older file is, without a checksum of its own
        about = {name: text for name, text in file.metadata().items() if name != "tensors"}
    save_file(
        {name: tensor.repeat_interleave(2, 0) for name, tensor in load_file(state).items()}, state, about
    )
    assert "expected batch_size 1, got a state of 2" in refused(*generate, "--load-state", state)
    state.write_bytes(state.read_bytes()[:-1])
    assert "expected a saved state, cut short" in refused(*generate, "--load-state", state)
    assert "none: expected a file, missing" in refused(*generate, "--load-state", tmp_path / "none")
    assert "none: expected a file, missing" in refused(*generate, "--prompt-file", tmp_path / "none")
    assert "expected a file, got a folder" in refused(*generate, "--prompt-file", tmp_path)
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "fifo")
    assert "empty: expected text, got an empty file" in refused(
        *generate, "--prompt-file", tmp_path / "empty"
    )
    for path, said in (
        (tmp_path, "expected a file, got a folder"),
        (tmp_path / "no" / "state", "expected a folder that is there"),
        (tmp_path / "fifo", "expected a file, got a FIFO"),
        (tmp_path / "link", "expected a file, got a device"),
        (corpus, "expected a saved state to replace, or no file, got another one"),
    ):
        assert f"{path}: {said}" in refused(*generate, "--save-state", path)
    before = corpus.read_bytes()
    refused(*generate, "--prompt-file", corpus, "--save-state", corpus, "--max-new-tokens", "0")
    assert corpus.read_bytes() == before
    nothing = ("generate", small_run, "--max-new-tokens", "0")
    assert "--max-new-tokens: expected at least 1, or 0 with --save-state; got 0" in refused(*nothing)
    assert "expected a text that was read, got none" in refused(*nothing, "--save-state", tmp_path / "b")


def test_a_file_beyond_the_positions_is_refused_before_it_is_read(call, refused, corpus, tmp_path) -> None:
    run, text = tmp_path / "run", tmp_path / "text"
    call("train", corpus, *SMALL, "--steps", "1", "--out", run, "--max-positions", "16")
    text.write_text("x" * 16)
    state = tmp_path / "state"
    generate = ("generate", run, "--prompt-file", text)
    code, _, _ = call(*generate, "--max-new-tokens", "0", "--save-state", state)
    assert code == 0
    assert "prompt of 16 tokens + max_new_tokens = 1: more than max_positions" in refused(*generate)
    assert (
        f"{text}: expected at most the 0 bytes that the model's positions leave room for, got 16; a model "
        "built with max_positions=None has no limit" in refused(*generate, "--load-state", state)
    )
    text.write_text("x" * 17)
    assert "expected at most the 16 bytes" in refused(*generate)

"""The commands with a peer: trained, measured, read from and refused like any other model."""

import json

import pytest

from unimatrix.cli import main

SMALL = [
    *("--d-model", "8", "--num-heads", "2", "--depth", "1", "--state-dim", "4"),
    *("--batch-size", "2", "--seq-len", "16", "--tracker", "none"),
]


def write_text(path):
    path.write_text("the sea and the sky\n" * 100)
    return path


@pytest.fixture(scope="module")
def peer_run(tmp_path_factory):
    """The folder of a finished run of two steps; tests only read it."""
    folder = tmp_path_factory.mktemp("peer")
    text = write_text(folder / "sea.txt")
    command = ["train", str(text), "--preset", "mamba2", *SMALL, "--steps", "2", "--out", str(folder / "run")]
    assert main(command) == 0
    return folder / "run"


def test_eval_and_generate_read_its_checkpoint(call, peer_run) -> None:
    code, out, err = call("eval", peer_run, "--json", "--carry-state")
    assert (code, err) == (0, "")
    assert 0 < json.loads(out)["bpb"] < 12
    code, out, err = call("generate", peer_run, "--prompt", "the s", "--max-new-tokens", "6", "--seed", "1")
    assert (code, err) == (0, "")
    assert out.startswith("the s")


def test_a_resumed_run_goes_on(call, peer_run, tmp_path) -> None:
    text = write_text(tmp_path / "sea.txt")
    out = tmp_path / "run"
    train = ["train", text, "--preset", "mamba2", *SMALL, "--out", out]
    assert call(*train, "--steps", "1")[0] == 0
    code, printed, _ = call("train", "--resume", "--out", out, "--steps", "2")
    assert (code, "2 steps" in printed) == (0, True)
    weights = [(run / "checkpoint-000002" / "model.safetensors").read_bytes() for run in (out, peer_run)]
    assert weights[0] == weights[1]


def test_what_it_has_not_is_refused(refused, peer_run, tmp_path) -> None:
    assert "slot memory" in refused("inspect", peer_run, "--prompt", "the")
    text = write_text(tmp_path / "sea.txt")
    complaint = refused("train", text, "--preset", "mamba2", "--slots", "4", "--out", tmp_path / "run")
    assert "preset mamba2: unknown setting 'slots'" in complaint

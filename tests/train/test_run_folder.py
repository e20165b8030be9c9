"""The output folder: another's run is safe, and a resume goes on with the run that it means."""

import fcntl
import json
import os
import threading

import numpy as np
import pytest
import safetensors.torch
import torch

from unimatrix.data import Corpus
from unimatrix.errors import UserError
from unimatrix.hf.checksums import CHECKSUMS, write_checksums
from unimatrix.train import loop, train
from unimatrix.train.run_folder import sole_use
from unimatrix.train.run_model import INDEX


@pytest.fixture
def fit(tmp_path, text, console):
    def run(experiment, **arguments):
        return train(
            experiment, **({"out": tmp_path / "run", "corpus": text, "console": console} | arguments)
        )

    return run


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_run_is_not_touched_without_a_word(fit, tiny, tmp_path):
    fit(tiny())
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="holds another run; expected --resume, --overwrite or another"):
        fit(tiny())
    with pytest.raises(UserError, match="expected one of resume and overwrite, got both"):
        fit(tiny(), resume=True, overwrite=True)
    assert snapshot(tmp_path) == before


def test_overwrite_deletes_what_a_run_wrote_and_nothing_else(fit, tiny, tmp_path):
    out = tmp_path / "run"
    fit(tiny(steps=5, save_every=2, tracker="tensorboard"))
    (out / "logs" / "mine.txt").write_text("keep")
    (out / "thesis.txt").write_text("keep")
    (out / "checkpoint-best").mkdir()
    (out / ".checkpoint-000004.partial").mkdir()
    fit(tiny(steps=1), overwrite=True)
    names = {
        path.relative_to(out).as_posix() for path in out.rglob("*") if "checkpoint-000001/" not in str(path)
    }
    index = json.loads((out / INDEX).read_text())
    assert names == {
        *index["metadata"]["files"],
        INDEX,
        "run.json",
        "checkpoint-000001",
        "logs",
        "logs/mine.txt",
        "thesis.txt",
        "checkpoint-best",
    }


def test_a_folder_with_other_files_is_no_run(fit, tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("keep")
    fit(tiny(steps=1))
    assert (tmp_path / "run" / "thesis.txt").read_text() == "keep"


@pytest.mark.parametrize("contents", ['{"kind": "something else"}', "no json", "[]"])
@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}])
def test_a_run_json_that_is_not_ours_is_not_replaced(fit, tiny, tmp_path, contents, how):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(contents)
    with pytest.raises(UserError, match=r"run.json"):
        fit(tiny(), **how)
    assert (tmp_path / "run" / "run.json").read_text() == contents


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}])
def test_nothing_begins_beside_an_index_that_cannot_be_read(fit, tiny, tmp_path, how):
    if how:
        fit(tiny())
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / INDEX).write_text('{"metadata"')
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=rf"{INDEX}: expected JSON.*; delete or mend it to go on"):
        fit(tiny(), **how)
    assert snapshot(tmp_path) == before


def test_overwrite_with_bad_settings_deletes_nothing(fit, tiny, tmp_path):
    fit(tiny())
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="no-such-model"):
        fit(tiny(preset="no-such-model"), overwrite=True)
    assert snapshot(tmp_path) == before


def test_nothing_to_resume_is_said(fit, tiny, tmp_path):
    with pytest.raises(UserError, match="no run to resume"):
        fit(tiny(), resume=True)
    assert not (tmp_path / "run").exists()


def test_a_run_killed_before_its_first_checkpoint_starts_again(fit, tiny, tmp_path):
    whole = fit(tiny(), out=tmp_path / "whole")
    first = fit(tiny())
    for path in (tmp_path / "run").glob("checkpoint-*/*"):
        path.unlink()
    first.checkpoint.rmdir()
    again = fit(tiny(), resume=True)
    assert again.bpb == whole.bpb


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 1e-2}, "has lr 0.0003, got 0.01"),
        ({"preset": "unimatrix-core"}, "has preset 'transformer', got 'unimatrix-core'"),
        ({"seed": 8}, "has seed 7, got 8"),
        ({"steps": 5}, "steps: expected at least the 6 that the run has made, got 5"),
    ],
)
@pytest.mark.parametrize("with_mark", [True, False])
def test_a_resume_with_other_settings_names_the_first(fit, tiny, tmp_path, settings, message, with_mark):
    fit(tiny())
    if not with_mark:
        (tmp_path / "run" / "run.json").unlink()
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=message):
        fit(tiny(**settings), resume=True)
    assert snapshot(tmp_path) == before


def test_a_resume_with_another_text_is_refused(fit, tiny, text):
    fit(tiny())
    other = Corpus(name="short", train=text.train[1:], valid=text.valid, test=text.test)
    with pytest.raises(UserError, match=r"another train text: 20,000 bytes, sha256 .*; got 19,999 bytes"):
        fit(tiny(), resume=True, corpus=other)
    other = Corpus(name="short", train=text.train, valid=np.flip(text.valid), test=text.test)
    with pytest.raises(UserError, match="another valid text"):
        fit(tiny(), resume=True, corpus=other)


def test_a_checkpoint_of_another_model_is_refused(fit, tiny, tmp_path):
    result = fit(tiny())
    config = json.loads((result.checkpoint / "config.json").read_text())
    config["model"]["depth"] = 3
    (result.checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config.json: (cut short|wrong checksum)"):
        fit(tiny(), resume=True)


def test_a_damaged_checkpoint_stops_a_resume_and_names_the_one_before(fit, tiny):
    result = fit(tiny(steps=4, save_every=2))
    file = result.checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model.safetensors: cut short.*go on from checkpoint-000002"):
        fit(tiny(steps=4, save_every=2), resume=True)


def renew_checksums(folder):
    (folder / CHECKSUMS).unlink()
    write_checksums(folder)


def rewrite_tensors(path, change):
    """A safetensors file with other contents, and checksums that say it is meant to be so."""
    tensors = change(safetensors.torch.load_file(path))
    safetensors.torch.save_file(tensors, path)
    renew_checksums(path.parent)


NAME = "exp_avg/blocks.0.mixer.qkv.weight"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("optimizer", lambda old: {}, "is missing, one of"),
        ("optimizer", lambda old: {k: v for k, v in old.items() if k != NAME}, f"'{NAME}' is missing"),
        (
            "optimizer",
            lambda old: old | {NAME: old[NAME].half()},
            f"'{NAME}': expected shape .* torch.float16",
        ),
        ("optimizer", lambda old: old | {NAME: old[NAME][:1].clone()}, f"'{NAME}': expected shape"),
        ("optimizer", lambda old: old | {NAME: old[NAME] / 0.0}, f"'{NAME}': expected finite numbers"),
        ("rng", lambda old: {}, "'cpu' is missing"),
        ("rng", lambda old: {"cpu": old["cpu"][:, :9].clone()}, "'cpu': expected shape"),
        ("rng", lambda old: {"cpu": old["cpu"].float()}, "'cpu': expected shape .* of torch.float32"),
        (
            "model",
            lambda old: {k: v * torch.nan for k, v in old.items()},
            ": expected finite numbers, got others",
        ),
        ("model", lambda old: {}, "Missing key"),
    ],
)
def test_a_resume_from_tensors_that_no_run_wrote_is_refused(fit, tiny, tmp_path, file, change, message):
    result = fit(tiny())
    rewrite_tensors(result.checkpoint / f"{file}.safetensors", change)
    before = snapshot(tmp_path)
    for steps in (6, 9):
        with pytest.raises(UserError, match=f"{file}.safetensors: .*{message}") as caught:
            fit(tiny(steps=steps), resume=True)
        assert "\n" not in str(caught.value)
    assert snapshot(tmp_path) == before


def as_before_0_2(tensors):
    """d beside q, k, v in one matrix; spectrally normalised ones as PyTorch's parametrisation names them."""
    old = {}
    for name, tensor in tensors.items():
        if name.endswith(".mixer.d.weight") and name.replace(".d.", ".rules.") not in tensors:
            joint = tensors[name.replace(".d.", ".qkv.")]
            old[name.replace(".d.", ".dqkv.")] = torch.cat([tensor, joint]) if tensor.dim() else tensor
        elif not (name.endswith(".mixer.qkv.weight") and name.replace(".qkv.", ".d.") in tensors):
            for end, before in ((".original", "original"), (".u", "0._u"), (".v", "0._v")):
                if name.endswith(end):
                    name = f"{name.removesuffix(end)}.parametrizations.weight.{before}"
            old[name] = tensor
    return old


@pytest.mark.parametrize("preset", ["unimatrix-core", "unimatrix-rosa", "unimatrix-discovery", "transformer"])
def test_an_older_versions_checkpoint_goes_on_bit_for_bit(fit, tiny, tmp_path, preset):
    whole = fit(tiny(preset=preset, steps=4), out=tmp_path / "whole")
    first = fit(tiny(preset=preset, steps=2))
    names = []
    for file in ("model", "optimizer"):
        path = first.checkpoint / f"{file}.safetensors"
        before = safetensors.torch.load_file(path)
        rewrite_tensors(path, as_before_0_2)
        names.append(before.keys() != safetensors.torch.load_file(path).keys())
    assert names == [preset != "transformer"] * 2
    rest = fit(tiny(preset=preset, steps=4), resume=True)
    if preset == "unimatrix-discovery":
        # the singular vectors of older versions could be far behind, and are found anew
        assert rest.bpb == pytest.approx(whole.bpb, rel=1e-2)
        return
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (rest.checkpoint / file).read_bytes() == (whole.checkpoint / file).read_bytes()


@pytest.mark.parametrize("name", [CHECKSUMS, "trainer.json", "config.json", "optimizer.safetensors"])
def test_an_only_checkpoint_that_lacks_a_file_is_neither_skipped_nor_replaced(fit, tiny, tmp_path, name):
    result = fit(tiny())
    (result.checkpoint / name).unlink()
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=f"checkpoint-000006/{name}: missing from its checkpoint"):
        fit(tiny(steps=9), resume=True)
    with pytest.raises(UserError, match="holds another run"):
        fit(tiny(steps=9))
    assert snapshot(tmp_path) == before


HOSTILE = {
    "step": ["x", -5, 0, 1.5, None, 2**70, 7],
    "data": [{}, None, [], {"kind": "sound"}, {"train": 1}],
    "experiment": [{}, None, {"loop": 3}, {"model": {"preset": 7}}],
    "seconds": ["x", -1.0, None],
    "loss": ["x", []],
    "curve": [3, [[1]], [["x", 2.0]], [[1, 2.0, 3.0]], {"1": 2.0}],
    "at_steps": [[], {"bpb_2_steps": "x"}],
    "format": [2, "1"],
    "scaler": [[], {"scale": "x"}],
    "id": [None, 7, []],
    "kind": ["something else", None],
}


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        (file, field, value)
        for file, fields in {
            "trainer.json": HOSTILE.keys() - {"id", "kind"},
            "run.json": {"data", "experiment", "id", "kind"},
        }.items()
        for field in sorted(fields)
        for value in HOSTILE[field]
        # an experiment without fields is the one of all defaults, another run
        if (file, field, value) != ("run.json", "experiment", {})
    ],
)
def test_a_wrong_field_is_named_with_its_file(fit, tiny, tmp_path, file, field, value):
    result = fit(tiny())
    path = (result.checkpoint if file == "trainer.json" else result.out) / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    if file == "trainer.json":
        renew_checksums(path.parent)
    before = snapshot(tmp_path)
    with pytest.raises(UserError) as caught:
        fit(tiny(steps=9), resume=True)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert file in str(caught.value) or "resume: the run in" in str(caught.value)
    assert field in str(caught.value) or field in ("experiment", "kind")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("file", ["trainer.json", "run.json"])
@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b"null",
        b'{"step": NaN}',
    ],
)
def test_a_record_that_is_none_is_named(fit, tiny, tmp_path, file, contents):
    result = fit(tiny())
    path = (result.checkpoint if file == "trainer.json" else result.out) / file
    path.write_bytes(contents)
    if file == "trainer.json":
        renew_checksums(path.parent)
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=file) as caught:
        fit(tiny(steps=9), resume=True)
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("field", ["step", "experiment", "data", "seconds", "loss", "curve", "id"])
def test_a_missing_field_is_named(fit, tiny, field):
    result = fit(tiny())
    path = result.out / "run.json" if field == "id" else result.checkpoint / "trainer.json"
    values = json.loads(path.read_text())
    del values[field]
    path.write_text(json.dumps(values))
    if field != "id":
        renew_checksums(path.parent)
    with pytest.raises(UserError, match=f"{path.name}: {field}: expected this field, got none"):
        fit(tiny(steps=9), resume=True)


def test_a_file_in_the_folders_place_is_named(fit, tiny, tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match="expected a folder, got the file"):
        fit(tiny())
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\)"):
        fit(tiny(), out=tmp_path / "run" / "below")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("n\0l", "embedded null (byte|character)"),
        ("x" * 300, "File name too long"),
        ("\ud800", "not UTF-8|surrogates not allowed"),
        (b"\xff\xfe".decode("utf-8", "surrogateescape"), "not UTF-8"),
    ],
)
@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_a_path_that_some_library_cannot_write_is_refused(fit, tiny, tmp_path, name, reason, how):
    with pytest.raises(
        UserError, match=f"^output folder: expected the path of a folder, .*({reason})"
    ) as caught:
        fit(tiny(tracker="tensorboard"), out=tmp_path / name, **how)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["v2 [/final]", "a\nb", "é☃", "-x", "%s {0}"])
def test_any_other_path_is_fine(fit, tiny, tmp_path, name):
    fit(tiny(steps=1, tracker="tensorboard"), out=tmp_path / name)
    assert fit(tiny(steps=2, tracker="tensorboard"), out=tmp_path / name, resume=True).steps == 2


def test_a_folder_that_cannot_be_written_is_named(fit, tiny, tmp_path, monkeypatch):
    def refuse(self, *arguments, **named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(UserError, match=r"cannot be written \(Permission denied\)"):
        fit(tiny())


def test_a_resume_deletes_the_checkpoint_that_a_kill_left_over(fit, tiny, tmp_path):
    fit(tiny(steps=6, save_every=2, keep_checkpoints=3))
    fit(tiny(steps=6, save_every=2, keep_checkpoints=1), resume=True)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-000006"]


def test_two_runs_never_share_a_folder(fit, tiny, tmp_path):
    fit(tiny())
    before = snapshot(tmp_path)
    with sole_use(tmp_path / "run"):
        for arguments in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(UserError, match="another training is running in it"):
                fit(tiny(steps=8), **arguments)
        assert snapshot(tmp_path) == before
    fit(tiny(steps=8), resume=True)


def test_a_run_that_came_first_is_not_overwritten(fit, tiny, tmp_path, monkeypatch):
    real = loop.sole_use

    def late(out):
        monkeypatch.setattr(loop, "sole_use", real)
        fit(tiny(steps=2))
        return real(out)

    monkeypatch.setattr(loop, "sole_use", late)
    with pytest.raises(UserError, match="holds another run"):
        fit(tiny())
    assert (tmp_path / "run" / "checkpoint-000002").is_dir()


def test_who_only_looks_whether_a_run_goes_on_keeps_none_from_beginning(tmp_path):
    """As `unimatrix runs` does, and a script that calls it ten times a second."""
    (tmp_path / "run").mkdir()
    descriptor = os.open(tmp_path / "run", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    looking = threading.Timer(0.15, os.close, (descriptor,))
    looking.start()
    with sole_use(tmp_path / "run"):
        pass
    looking.join()


def test_a_full_disk_under_the_curves_is_told_once(fit, tiny, monkeypatch, capfd):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    with pytest.raises(UserError, match=r"curves could not be written .No space left on device"):
        fit(tiny(tracker="tensorboard"))
    assert "Traceback" not in capfd.readouterr().err

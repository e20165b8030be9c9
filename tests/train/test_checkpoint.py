"""Checkpoints: complete, readable by others, verified, and never torn."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from unimatrix.errors import UserError
from unimatrix.hf import ByteTokenizer, checksums, load
from unimatrix.hf.config import CODE
from unimatrix.models import build
from unimatrix.train import Experiment
from unimatrix.train.checkpoint import (
    delete_checkpoints,
    delete_leftovers,
    find_checkpoint,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from unimatrix.train.records import TextData, TextSplit, TrainerRecord
from unimatrix.train.run_model import INDEX


def checkpoints(folder):
    """The names in a run's folder, but for those that make it load as its newest checkpoint."""
    made = {"config.json", "generation_config.json", "tokenizer_config.json", "modeling_unimatrix.py", INDEX}
    return sorted({path.name for path in folder.iterdir()} - made)


def record(step, **fields):
    split = TextSplit(sha256="0" * 64, bytes=3)
    data = TextData(name="x", notes=(), is_paper_corpus=False, train=split, valid=split)
    settings = {"experiment": Experiment(), "data": data, "seconds": 1.0, "loss": 1.5, "curve": ((1, 2.0),)}
    return TrainerRecord(step=step, **(settings | fields))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build("unimatrix-discovery", d_model=16, num_heads=2, depth=2)


@pytest.fixture
def save(tmp_path, model):
    def run(step, *, keep=2, loss=1.5):
        return save_checkpoint(
            tmp_path,
            model=model,
            optimizer={"exp_avg/norm.weight": torch.full((16,), 0.1)},
            rng={"cpu": torch.zeros(1, 8, dtype=torch.uint8)},
            trainer=record(step, loss=loss),
            keep=keep,
        )

    return run


def test_what_was_saved_comes_back(save, model):
    folder = save(80)
    assert folder.name == "checkpoint-000080"
    loaded = load_checkpoint(folder)
    assert loaded.trainer == record(80)
    assert loaded.model_config == model.config.to_dict()
    assert set(loaded.weights) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.weights[name], tensor), name
    assert torch.equal(loaded.optimizer["exp_avg/norm.weight"], torch.full((16,), 0.1))
    assert loaded.rng["cpu"].dtype == torch.uint8


def test_it_is_a_hugging_face_folder(save, model):
    folder = save(1)
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)("hello", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected, _ = model.eval()(ids)
        assert torch.equal(loaded(ids).logits, expected)


def test_everything_is_safetensors_or_json_with_a_checksum(save):
    folder = save(1)
    names = {path.name for path in folder.iterdir()}
    assert {
        "model.safetensors",
        "optimizer.safetensors",
        "rng.safetensors",
        "trainer.json",
        "config.json",
    } <= names
    for path in folder.iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".py":
            assert path.read_text() == CODE
        else:
            assert path.suffix == ".safetensors"
            safetensors.torch.load_file(path)
    listed = json.loads((folder / "checksums.json").read_text())["files"]
    assert set(listed) == names - {"checksums.json"}


def test_the_same_state_gives_the_same_bytes(save):
    first = (save(1) / "model.safetensors").read_bytes()
    assert (save(2) / "model.safetensors").read_bytes() == first


def test_the_last_k_are_kept(save, tmp_path):
    for step in (1, 2, 10, 1_000_000, 2_000_000):
        save(step, keep=3)
    assert checkpoints(tmp_path) == [
        "checkpoint-000010",
        "checkpoint-1000000",
        "checkpoint-2000000",
    ]
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-2000000"


def test_files_follow_the_umask(save):
    before = os.umask(0o022)
    try:
        folder = save(1)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


def test_the_same_step_again_replaces(save, tmp_path):
    save(3, loss=1.0)
    save(3, loss=2.0)
    assert load_checkpoint(tmp_path / "checkpoint-000003").trainer.loss == 2.0
    assert checkpoints(tmp_path) == ["checkpoint-000003"]


def test_unfinished_ones_do_not_count(save, tmp_path):
    save(1)
    (tmp_path / ".checkpoint-000002.partial").mkdir()
    (tmp_path / "checkpoint-000004.bak").mkdir()
    (tmp_path / "checkpoint-000005").touch()
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-000001"
    assert latest_checkpoint(tmp_path / "nowhere") is None


def test_one_that_lacks_its_checksums_is_the_newest_still_and_stays(save, tmp_path):
    save(1)
    (save(2) / "checksums.json").unlink()
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-000002"
    with pytest.raises(UserError, match=r"checksums.json: missing from its .* go on from checkpoint-000001"):
        load_checkpoint(find_checkpoint(tmp_path))
    for step in (3, 4, 5):
        save(step)
    assert checkpoints(tmp_path) == [
        "checkpoint-000002",
        "checkpoint-000004",
        "checkpoint-000005",
    ]
    # with a number of another length too
    (save(1_000_000) / "checksums.json").unlink()
    with pytest.raises(UserError, match="go on from checkpoint-000005"):
        load_checkpoint(find_checkpoint(tmp_path))
    # to go on from one that lacks its own would help nobody
    (tmp_path / "checkpoint-000005" / "checksums.json").unlink()
    with pytest.raises(UserError, match=r"missing from its checkpoint$"):
        load_checkpoint(find_checkpoint(tmp_path))


def test_leftovers_go_and_nothing_else(save, tmp_path):
    save(1)
    for name in (".checkpoint-000002.partial", ".checkpoint-000001.deleted", ".checkpoint-000001.replaced"):
        (tmp_path / name).mkdir()
    (tmp_path / ".checkpoint-of-mine").mkdir()
    (tmp_path / "thesis.txt").touch()
    delete_leftovers(tmp_path)
    assert checkpoints(tmp_path) == [".checkpoint-of-mine", "checkpoint-000001", "thesis.txt"]
    delete_checkpoints(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".checkpoint-of-mine", "thesis.txt"]


def test_an_old_checkpoint_that_cannot_be_deleted_ends_no_training(save, tmp_path, monkeypatch):
    """A file of it may be open elsewhere, on NFS; or it is a link to where there is more room."""
    save(1, keep=1)
    elsewhere = tmp_path.parent / "elsewhere"
    os.rename(tmp_path / "checkpoint-000001", elsewhere)
    (tmp_path / "checkpoint-000001").symlink_to(elsewhere, target_is_directory=True)
    save(2, keep=1)
    assert checkpoints(tmp_path) == ["checkpoint-000002"]
    assert (elsewhere / "model.safetensors").exists()

    def busy(*_, **__):
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", busy)
        assert save(3, keep=1).name == "checkpoint-000003"
        delete_leftovers(tmp_path)
    assert checkpoints(tmp_path) == [".checkpoint-000002.deleted", "checkpoint-000003"]
    delete_leftovers(tmp_path)
    assert checkpoints(tmp_path) == ["checkpoint-000003"]


def test_a_checkpoint_is_found_by_its_own_or_its_runs_folder(save, tmp_path):
    save(1)
    folder = save(2)
    assert find_checkpoint(folder) == folder
    assert find_checkpoint(str(tmp_path)) == folder
    with pytest.raises(UserError, match="expected a checkpoint or the folder of a run"):
        find_checkpoint(tmp_path / "nowhere")


# ---- the run's folder


def same_weights(model, other):
    return all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))


def test_a_runs_folder_is_the_model_of_its_newest_checkpoint(save, tmp_path, model):
    ids = ByteTokenizer()("hello")["input_ids"]
    (tmp_path / "run.json").touch()
    for step in (1, 2, 3):
        save(step, keep=1)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert same_weights(loaded.language_model, model)
        assert AutoTokenizer.from_pretrained(tmp_path)("hello")["input_ids"] == ids
        files = set(json.loads((tmp_path / INDEX).read_text())["weight_map"].values())
        assert files == {f"checkpoint-{step:06d}/model.safetensors"}
        # of our own loader the checksums are asked for too
        assert same_weights(load(tmp_path)[0].language_model, model)
    flip(tmp_path / "checkpoint-000003" / "model.safetensors")
    with pytest.raises(UserError, match="wrong checksum"):
        load(tmp_path)


def test_somebodys_own_files_are_left_as_they_are(save, tmp_path):
    (tmp_path / "config.json").write_text("mine")
    save(1)
    save(2)
    assert (tmp_path / "config.json").read_text() == "mine"
    assert not (tmp_path / INDEX).exists()
    delete_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("index", ["[]", "{}", '{"metadata": 3}', '{"metadata": {"files": 7}}'])
def test_an_index_that_is_not_ours_is_somebodys_own(save, tmp_path, index):
    (tmp_path / INDEX).write_text(index)
    save(1)
    assert (tmp_path / INDEX).read_text() == index
    assert checkpoints(tmp_path) == ["checkpoint-000001"]


@pytest.mark.parametrize("index", ["", '{"metadata": {"files": [', "[" * 10_000])
def test_an_index_that_cannot_be_read_is_named(save, tmp_path, index):
    save(1)
    (tmp_path / INDEX).write_text(index)
    for act in (lambda: save(2), lambda: delete_checkpoints(tmp_path)):
        with pytest.raises(UserError, match=rf"{INDEX}: expected JSON.*; delete or mend it to go on"):
            act()
        assert (tmp_path / INDEX).read_text() == index
    assert checkpoints(tmp_path) == ["checkpoint-000001", "checkpoint-000002"]
    (tmp_path / INDEX).unlink()
    save(3)
    assert checkpoints(tmp_path) == ["checkpoint-000002", "checkpoint-000003"]


def test_an_index_never_leads_to_deleting_anything_else(save, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    for path in (tmp_path / "a.json", out / "run.json", out / "thesis.txt"):
        path.write_text("mine")
    files = ["../a.json", str(tmp_path / "a.json"), "run.json", "thesis.txt", 3, None, "", ".."]
    (out / INDEX).write_text(json.dumps({"metadata": {"files": files}}))
    delete_checkpoints(out)
    assert sorted(path.name for path in out.iterdir()) == ["run.json", "thesis.txt"]
    assert (tmp_path / "a.json").exists()


def test_a_model_of_one_task_makes_no_folder_of_hugging_faces(tmp_path):
    save_checkpoint(
        tmp_path,
        model=build("typed-latent"),
        optimizer={"exp_avg/norm.weight": torch.zeros(16)},
        rng={"cpu": torch.zeros(1, 8, dtype=torch.uint8)},
        trainer=record(1),
        keep=1,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000001"]


# ---- damage


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "rng.safetensors", "trainer.json", "config.json"]
)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "cut short"),
        (flip, "wrong checksum"),
        (lambda path: path.unlink(), "missing from its checkpoint"),
    ],
)
def test_damage_is_named_with_the_way_on(save, name, damage, message):
    save(1)
    folder = save(2)
    damage(folder / name)
    with pytest.raises(UserError, match=message) as caught:
        load_checkpoint(folder)
    assert str(folder / name) in str(caught.value)
    assert "delete checkpoint-000002 to go on from checkpoint-000001" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "contents",
    [
        *("", "{}", "[]", '{"files": {"a": 1}}', '{"files": []}', '{"files": {}, "more": 1}', "\xff", "NaN"),
        '{"files": {"a": {"bytes": "1", "sha256": "x"}}}',
        '{"files": {"a": {"bytes": 1}}}',
        "[" * 100_000,
        '{"files":' * 50_000,
    ],
)
def test_damaged_checksums_are_named(save, contents):
    folder = save(1)
    (folder / "checksums.json").write_text(contents)
    with pytest.raises(UserError, match=r"checksums.json: expected the checksums"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["optimizer.safetensors", "trainer.json"])
def test_a_file_without_a_checksum_is_not_trusted(save, name):
    folder = save(1)
    values = json.loads((folder / "checksums.json").read_text())
    del values["files"][name]
    (folder / "checksums.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"checksums.json: expected the checksum of {name}, got none"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b"])
def test_checksums_are_of_files_beside_them(save, name):
    folder = save(1)
    values = json.loads((folder / "checksums.json").read_text())
    values["files"][name] = {"sha256": "0", "bytes": 1}
    (folder / "checksums.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"checksums.json: expected names of files beside it, got "):
        load_checkpoint(folder)


# ---- a disk that does not take it


def test_a_write_that_fails_leaves_the_last_good_one(save, tmp_path, monkeypatch):
    save(1)
    real = checksums._sha256

    def full(path):
        if path.name == "optimizer.safetensors":
            raise OSError(28, "No space left on device")
        return real(path)

    monkeypatch.setattr(checksums, "_sha256", full)
    with pytest.raises(UserError, match="No space left on device") as caught:
        save(2)
    assert "last good one is" in str(caught.value)
    assert "checkpoint-000001" in str(caught.value)
    assert checkpoints(tmp_path) == ["checkpoint-000001"]
    monkeypatch.undo()
    load_checkpoint(tmp_path / "checkpoint-000001")


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from unimatrix.errors import UserError
from unimatrix.models import build
from unimatrix.train import Experiment
from unimatrix.train.checkpoint import load_checkpoint, save_checkpoint
from unimatrix.train.records import TextData, TextSplit, TrainerRecord
out = Path(sys.argv[1])
model = build("unimatrix-core", d_model=16, num_heads=2, depth=1)
def save(step):
    rng = {"cpu": torch.zeros(1, 8, dtype=torch.uint8)}
    optimizer = {"exp_avg/norm.weight": torch.zeros(16)}
    split = TextSplit(sha256="0", bytes=3)
    data = TextData(name="x", notes=(), is_paper_corpus=False, train=split, valid=split)
    trainer = TrainerRecord(step=step, experiment=Experiment(), data=data, seconds=1.0, loss=1.0, curve=())
    return save_checkpoint(out, model=model, optimizer=optimizer, rng=rng, trainer=trainer, keep=2)
first = save(1)
for limit in (100, 1000, (first / "model.safetensors").stat().st_size - 1):
    # no file may grow beyond the limit: the system refuses the write as a full disk does
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save(2)
        print("WRITTEN", limit)
    except UserError as error:
        print("refused:", error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert [path.name for path in out.glob("*checkpoint*")] == ["checkpoint-000001"], list(out.iterdir())
    load_checkpoint(first)
save(2)
print("done")
"""


def test_a_disk_that_refuses_bytes_leaves_the_last_good_one(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    for line in lines[:3]:
        assert line.startswith("refused:")
        assert "checkpoint-000002: could not be written (" in line
        assert "File too large" in line
        assert "the last good one is" in line
    assert lines[3] == "done"

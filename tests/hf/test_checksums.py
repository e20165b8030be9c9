"""Checksums: what was written is recognised, and any other byte is not."""

import pytest

from unimatrix.errors import UserError
from unimatrix.hf import ByteTokenizer, load
from unimatrix.hf.checksums import CHECKSUMS, verify_checksums, write_checksums


@pytest.fixture
def folder(make_model, tmp_path):
    path = tmp_path / "checkpoint-000002"
    make_model("unimatrix-core").save_pretrained(path)
    ByteTokenizer().save_pretrained(path)
    (path / "notes.txt").write_text("as it was")
    write_checksums(path)
    return path


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 64
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: flip(f / "notes.txt"), r"notes\.txt: wrong checksum"),
        (lambda f: (f / "notes.txt").write_text("as it was once"), r"notes\.txt: wrong checksum"),
        (lambda f: (f / "notes.txt").write_text("as"), r"notes\.txt: cut short, 2 of 9 bytes"),
        (lambda f: (f / "notes.txt").unlink(), r"notes\.txt: missing from its checkpoint"),
        (lambda f: (f / CHECKSUMS).write_text("["), r"checksums\.json: expected the checksums"),
    ],
)
def test_any_difference_is_named(folder, damage, message):
    verify_checksums(folder)
    damage(folder)
    with pytest.raises(UserError, match=f"{message}.*; buy a disk$"):
        verify_checksums(folder, advice="; buy a disk")


def test_only_the_files_asked_for(folder):
    flip(folder / "notes.txt")
    verify_checksums(folder, names=("model.safetensors",))


def test_a_model_with_one_altered_byte_is_not_loaded(folder):
    flip(folder / "notes.txt")
    load(folder)
    flip(folder / "model.safetensors")
    for path in (folder, folder.parent):
        with pytest.raises(UserError, match=r"model\.safetensors: wrong checksum"):
            load(path)


def test_an_older_checkpoint_does_not_stand_in_for_a_damaged_one(folder, make_model):
    make_model("unimatrix-core").save_pretrained(folder.with_name("checkpoint-000001"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"checkpoint-000002/model\.safetensors: missing"):
        load(folder.parent)


def test_the_whole_checkpoint_beside_a_damaged_one_is_named(folder, make_model):
    for step in (1, 3, 4):
        other = folder.with_name(f"checkpoint-{step:06d}")
        make_model("unimatrix-core").save_pretrained(other)
        write_checksums(other)
    for damaged in (folder, other):
        (damaged / "model.safetensors").unlink()
    for damaged in (folder, other):
        with pytest.raises(UserError, match=r"missing.*; checkpoint-000003 beside it is whole$"):
            load(damaged)
    with pytest.raises(UserError, match=r"checkpoint-000004.*; checkpoint-000003 beside it is whole"):
        load(folder.parent)
    flip(folder.with_name("checkpoint-000003") / "config.json")
    with pytest.raises(UserError, match=r"missing.*; checkpoint-000001 beside it is whole"):
        load(folder.parent)
    (folder.with_name("checkpoint-000001") / "checksums.json").unlink()
    with pytest.raises(UserError, match=r"missing from its checkpoint$"):
        load(folder.parent)

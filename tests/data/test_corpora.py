"""Corpora: what is read from where, how it is split, what is said about it, and every bad input."""

import hashlib
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from unimatrix.data import Corpus, load_corpus, load_data_dir, wikitext
from unimatrix.data.embedded import read_embedded
from unimatrix.errors import UserError


def write_splits(folder, **splits):
    folder.mkdir(exist_ok=True)
    for split, text in splits.items():
        (folder / f"{split}.txt").write_bytes(text)
    return folder


def test_a_folder_with_the_three_splits(tmp_path):
    folder = write_splits(tmp_path / "own", train=b"abc", valid=b"de", test=b"\x00\xff")
    corpus = load_corpus(folder)
    assert corpus.name == "own"
    assert corpus.train.tobytes() == b"abc"
    assert corpus.valid.tobytes() == b"de"
    assert corpus.test.tobytes() == b"\x00\xff"
    assert not corpus.is_paper_corpus
    assert any("not the paper's corpus" in note for note in corpus.notes)
    assert corpus.fingerprint("train") == {"sha256": hashlib.sha256(b"abc").hexdigest(), "bytes": 3}


def test_the_names_of_the_official_archive_work_too(tmp_path):
    for name in ("wiki.train.raw", "wiki.valid.raw", "wiki.test.raw"):
        (tmp_path / name).write_bytes(name.encode())
    assert load_data_dir(tmp_path).test.tobytes() == b"wiki.test.raw"


def test_the_text_cannot_be_changed_by_mistake(tmp_path):
    corpus = load_corpus(write_splits(tmp_path, train=b"abc", valid=b"de", test=b"f"))
    with pytest.raises(ValueError, match="read-only"):
        corpus.train[0] = 1


def test_a_file_is_split_by_position_and_may_be_binary(tmp_path):
    raw = bytes(range(256)) * 4
    (tmp_path / "any.bin").write_bytes(raw)
    corpus = load_corpus(str(tmp_path / "any.bin"))
    assert corpus.train.tobytes() + corpus.valid.tobytes() + corpus.test.tobytes() == raw
    assert [len(corpus.split(split)) for split in ("train", "valid", "test")] == [921, 51, 52]
    assert any("split by position" in note for note in corpus.notes)


def test_a_folder_of_text_is_read_in_the_order_of_its_paths(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "c.md").write_bytes(b"C" * 20)
    (tmp_path / "b" / "x.txt").write_bytes(b"B" * 20)
    (tmp_path / "a.txt").write_bytes(b"A" * 20)
    (tmp_path / "image.png").write_bytes(b"\x89PNG\x00")
    (tmp_path / "empty.txt").touch()
    (tmp_path / ".hidden" / "y.txt").write_bytes(b"Y")
    corpus = load_corpus(tmp_path)
    whole = corpus.train.tobytes() + corpus.valid.tobytes() + corpus.test.tobytes()
    assert whole == b"A" * 20 + b"B" * 20 + b"C" * 20
    assert any("3 text files" in note and "1 binary" in note for note in corpus.notes)
    # where each begins, in each split; the border between two splits cuts the last one
    begins = {split: positions.tolist() for split, positions in corpus.begins.items()}
    assert begins == {"train": [0, 20, 40], "valid": [0], "test": [0]}
    assert corpus.documents("train")["number"] == 3
    assert corpus.documents("train") != corpus.documents("valid")


def test_what_is_no_folder_of_files_is_one_document_a_split(tmp_path):
    (tmp_path / "one.txt").write_bytes(b"x" * 100)
    for corpus in (
        load_corpus(tmp_path / "one.txt"),
        load_corpus(write_splits(tmp_path / "three", train=b"abc", valid=b"de", test=b"f")),
    ):
        assert [corpus.begins[split].tolist() for split in ("train", "valid", "test")] == [[0]] * 3


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: folder / "nowhere.txt", "there is no"),
        (lambda folder: write_splits(folder, train=b"x" * 99), r"valid.txt and test.txt missing"),
        (lambda folder: write_splits(folder, train=b"x", valid=b"", test=b"x"), r"valid.txt.*empty file"),
        (lambda folder: folder, "found none$"),
        (
            lambda folder: write_splits(folder, own="of two bytes each".encode("utf-16")),
            "none, and 1 with NUL",
        ),
        (lambda folder: write_splits(folder, own=b"x" * 19) / "own.txt", "at least 20 bytes.*got 19"),
        (lambda folder: write_splits(folder, own=b"") / "own.txt", "empty file"),
    ],
)
def test_bad_input_is_one_line_that_says_what_is_wrong(tmp_path, prepare, message):
    with pytest.raises(UserError, match=message) as caught:
        load_corpus(prepare(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "nowhere", "expected a folder"),
        (lambda path: write_splits(path, other=b"x" * 99), "train.txt and valid.txt and test.txt missing"),
    ],
)
def test_a_data_folder_must_hold_the_splits(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        load_data_dir(make(tmp_path))


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "secret.txt").write_bytes(b"x" * 100)

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(UserError, match=r"secret.txt: expected a readable file \(Permission denied\)"):
        load_corpus(tmp_path / "secret.txt")


def fifo(path):
    os.mkfifo(path)
    return path


def bound_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
    return path


def link(path, target):
    path.symlink_to(target)
    return path


def sparse(path):
    with path.open("wb") as file:
        file.truncate(2**43)
    return path


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: fifo(folder / "x"), "x: expected a file, got a FIFO"),
        (lambda folder: link(folder / "x", fifo(folder / "y")), "x: expected a file, got a FIFO"),
        (lambda folder: link(folder / "x", "/dev/zero"), "x: expected a file, got a device"),
        (lambda folder: "/dev/null", "/dev/null: expected a file, got a device"),
        (lambda folder: bound_socket(folder / "x"), "x: expected a file, got a socket"),
        (lambda folder: link(folder / "x", "gone"), "x: expected a file, a link to gone, which is not there"),
        (lambda folder: link(folder / "x", "x"), "x: cannot be read .Too many levels of symbolic links"),
        (lambda folder: sparse(folder / "x"), "x: 8,796,093,022,208 bytes: needs at least 8.0 TiB of memory"),
        (lambda folder: "x" * 300, "data: expected .*; got 'xxx.*xxx' .File name too long"),
        (lambda folder: "n\0l", "data: expected .*; there is no 'n.*l'$"),
        (lambda folder: "~no-such-user-here/x", "data: expected .*; got '~no-such-user-here/x' ."),
        (lambda folder: "embeded", "there is no 'embeded'; did you mean embedded.$"),
        (lambda folder: "nosuch", "there is no 'nosuch'$"),
        (lambda folder: None, "data: expected auto, .*; got None"),
        (lambda folder: 3, "data: expected auto, .*; got 3"),
        (lambda folder: b"x", "data: expected auto, .*; got b'x'"),
    ],
)
def test_what_is_no_text_is_called_what_it_is_and_never_waited_for(tmp_path, prepare, message):
    with pytest.raises(UserError, match=message) as caught:
        load_corpus(prepare(tmp_path))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (fifo, "train.txt: expected a file, got a FIFO"),
        (lambda path: link(path, "/dev/zero"), "train.txt: expected a file, got a device"),
        (lambda path: link(path, "gone"), "train.txt: expected a file, a link to gone, which is not there"),
        (lambda path: path.mkdir(), "train.txt: expected a file, got a folder"),
    ],
)
def test_a_split_that_is_no_file_is_called_what_it_is(tmp_path, make, message):
    write_splits(tmp_path, valid=b"x", test=b"x")
    make(tmp_path / "train.txt")
    for load in (load_corpus, load_data_dir):
        with pytest.raises(UserError, match=message):
            load(tmp_path)


def test_a_folder_of_text_leaves_out_what_is_no_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"A" * 20)
    fifo(tmp_path / "b.txt")
    bound_socket(tmp_path / "c.txt")
    for name, target in (
        ("d.txt", "/dev/zero"),
        ("e.txt", "gone"),
        ("f.txt", "f.txt"),
        ("g", "."),
        ("h", "/"),
    ):
        link(tmp_path / name, target)
    sparse(tmp_path / "i.bin")
    corpus = load_corpus(tmp_path)
    assert corpus.train.tobytes() + corpus.valid.tobytes() + corpus.test.tobytes() == b"A" * 20


def test_a_folder_that_is_linked_is_left_out_and_said_to_be(tmp_path):
    """It may hold the folder itself; a file that is linked is read as any other."""
    folder, other = tmp_path / "mine", tmp_path / "other"
    (folder / "sub").mkdir(parents=True)
    other.mkdir()
    (folder / "a.txt").write_bytes(b"A" * 40)
    (other / "b.txt").write_bytes(b"B" * 40)
    (folder / "c.txt").symlink_to(other / "b.txt")
    (folder / "linked").symlink_to(other)
    (folder / "sub" / "all").symlink_to(folder)
    corpus = load_corpus(folder)
    assert corpus.train.tobytes() + corpus.valid.tobytes() + corpus.test.tobytes() == b"A" * 40 + b"B" * 40
    assert any("2 text files" in note and "2 linked folders left out" in note for note in corpus.notes)


def test_a_folder_below_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_bytes(b"A" * 40)
    for name in ("open", "closed", ".hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "b.txt").write_bytes(b"B" * 40)
    real = os.scandir

    def refuse(path):
        if os.path.basename(os.fspath(path)) in ("closed", ".hidden"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"^data folder .*closed': expected a readable folder \(Permission"):
        load_corpus(tmp_path)


def test_a_run_that_is_trained_inside_a_folder_of_texts_is_no_part_of_them(tmp_path):
    (tmp_path / "book.txt").write_bytes(b"B" * 40)
    for name in ("runs/a/run.json", "runs/a/checkpoint-000002/config.json", "runs/a/checkpoint-000002/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    (tmp_path / "runs" / "a" / "checkpoint-000002" / "trainer.json").write_bytes(b"{}")
    (tmp_path / "reproduction" / "runs").mkdir(parents=True)
    (tmp_path / "reproduction" / "shown.jsonl").touch()
    (tmp_path / "reproduction" / "runs" / "notes.txt").write_bytes(b"N" * 40)
    (tmp_path / "runs" / "z.txt").write_bytes(b"Z" * 20)  # beside runs, and no run's
    corpus = load_corpus(tmp_path)
    assert corpus.train.tobytes() + corpus.valid.tobytes() + corpus.test.tobytes() == b"B" * 40 + b"Z" * 20
    assert any("2 text files" in note and "2 folders of runs left out" in note for note in corpus.notes)
    # asked for by itself it is read
    assert load_corpus(tmp_path / "reproduction" / "runs").train.tobytes() == b"N" * 36


def test_a_corpus_has_a_name_that_can_be_written_down(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xfe.txt"
    with open(path, "wb") as file:
        file.write(b"x" * 100)
    corpus = load_corpus(os.fsdecode(path))
    assert corpus.name == "??.txt"
    assert corpus.notes
    assert all(note.isprintable() and note.encode() for note in corpus.notes)


# ---- embedded


def test_the_embedded_corpus_is_deterministic_and_of_use():
    corpus, again = load_corpus("embedded"), load_corpus("embedded")
    for split in ("train", "valid", "test"):
        assert corpus.fingerprint(split) == again.fingerprint(split)
    assert len(corpus.train) > 3_000_000
    assert len(corpus.valid) > 50_000
    assert len(corpus.test) > 50_000
    assert not corpus.is_paper_corpus
    assert b"def " in corpus.valid.tobytes()


def test_the_embedded_corpus_leaves_out_tests_and_installed_packages(tmp_path):
    kept, left_out = ["a.py", "email/b.py"], []
    left_out += [
        "test/c.py",
        "email/tests/d.py",
        "site-packages/e.py",
        "config-3.11-x/f.py",
        "_sysconfigdata_g.py",
    ]
    left_out += ["notes.txt", "__pycache__/h.py"]
    for name in kept + left_out:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    splits, _, begins = read_embedded(tmp_path)
    for split, text in splits.items():
        assert begins[split].tolist() == [at for at, byte in enumerate(text) if byte == ord("#")]
    whole = b"".join(split.tobytes() for split in splits.values()).decode()
    assert sorted(whole.splitlines()) == sorted(f"# {name}" for name in kept)


def test_a_file_stays_in_its_split_when_others_come_and_go(tmp_path):
    texts = {f"m{i}.py": f"value = {i}\n" for i in range(200)}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    before, _, _ = read_embedded(tmp_path)
    for name in list(texts)[::2]:
        (tmp_path / name).unlink()
    after, _, _ = read_embedded(tmp_path)
    for split in ("train", "valid", "test"):
        assert before[split].size > 0
        assert set(after[split].tobytes().splitlines()) <= set(before[split].tobytes().splitlines())


def test_a_python_without_sources_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(UserError, match="standard library"):
        load_corpus("embedded")


# ---- WikiText-2 raw


def wiki_text(split):
    """The split's official bytes where tests are given them, otherwise a text of the same shape."""
    folder = os.environ.get("UNIMATRIX_DATA_DIR")
    if folder and split != "train":
        with open(os.path.join(folder, f"{split}.txt"), "rb") as file:
            raw = file.read()
        if hashlib.sha256(raw).hexdigest() == wikitext.OFFICIAL_SHA256[split]:
            return raw
    lines = [" \n", f" = Robert Boulter {split} = \n", " \n", " He said , “ no ” @-@ so ; naïve . \n", " \n"]
    return "".join(lines * 50).encode()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that answers with rows as the real one keeps them, through a parquet file; counts the calls."""
    import datasets

    raw = {split: wiki_text(split) for split in ("train", "valid", "test")}
    digest = {split: hashlib.sha256(text).hexdigest() for split, text in raw.items()}
    monkeypatch.setattr(wikitext, "OFFICIAL_SHA256", {split: digest[split] for split in ("valid", "test")})
    monkeypatch.setattr(wikitext, "OFFICIAL_TRAIN_SHA256_START", digest["train"][:8])
    monkeypatch.setattr(wikitext, "OFFICIAL_TRAIN_BYTES", len(raw["train"]))
    files = {}
    for split, hub_split in (("train", "train"), ("valid", "validation"), ("test", "test")):
        lines = raw[split].decode().splitlines(keepends=True)
        rows = [line if line.strip() else "" for line in lines]
        files[hub_split] = str(tmp_path / f"{hub_split}.parquet")
        datasets.Dataset.from_dict({"text": rows}).to_parquet(files[hub_split])
    asked = []

    def load_dataset(*names):
        asked.append(names)
        return datasets.DatasetDict(
            {name: datasets.Dataset.from_parquet(path) for name, path in files.items()}
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(wikitext.hub, "why_unreachable", lambda: None)
    return raw, asked


def test_the_hubs_rows_become_the_official_files_byte_by_byte(hub):
    raw, asked = hub
    corpus = load_corpus("wikitext-2-raw")
    assert asked == [("Salesforce/wikitext", "wikitext-2-raw-v1")]
    for split in ("train", "valid", "test"):
        assert corpus.split(split).tobytes() == raw[split]
        assert corpus.fingerprint(split)["sha256"] == hashlib.sha256(raw[split]).hexdigest()
    assert corpus.is_paper_corpus
    assert corpus.notes == ("wikitext-2-raw: all three splits are the official files.",)
    assert load_corpus("auto").name == "wikitext-2-raw"


def test_rows_that_kept_their_blank_lines_are_recognised_too(hub):
    raw, _ = hub
    rows = raw["valid"].decode().splitlines(keepends=True)
    assert wikitext.rebuild("valid", rows).tobytes() == raw["valid"]


def test_another_text_under_the_hubs_name_is_refused(hub):
    with pytest.raises(UserError, match="not the official file"):
        wikitext.rebuild("valid", ["something", "else"])


def test_a_folder_with_a_partial_train_says_so(hub, tmp_path):
    raw, _ = hub
    part = raw["train"][: len(raw["train"]) // 2]
    folder = write_splits(tmp_path / "part", train=part, valid=raw["valid"], test=raw["test"])
    corpus = load_corpus(folder)
    assert corpus.name == "wikitext-2-raw"
    assert corpus.is_paper_corpus
    assert len(corpus.notes) == 1
    assert "partial" in corpus.notes[0]
    assert f"{len(part):,} bytes" in corpus.notes[0]


def test_a_folder_whose_valid_differs_is_not_the_papers_corpus(hub, tmp_path):
    raw, _ = hub
    changed = raw["valid"][:-1] + b"x"
    corpus = load_corpus(write_splits(tmp_path / "w", train=raw["train"], valid=changed, test=raw["test"]))
    assert not corpus.is_paper_corpus


def test_no_network_means_the_embedded_corpus_with_a_notice_or_one_clear_line(monkeypatch):
    import datasets

    def fail(*names):
        assert datasets.config.HF_HUB_OFFLINE, "must go straight to the cache, not through retries"
        raise ConnectionError("nothing cached\nand more lines")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(wikitext.hub, "why_unreachable", lambda: "no network: refused")
    before = datasets.config.HF_HUB_OFFLINE
    corpus = load_corpus("auto")
    assert corpus.name.startswith("python-stdlib-")
    assert "no network: refused" in corpus.notes[0]
    assert sum("not the paper's corpus" in note for note in corpus.notes) == 1
    with pytest.raises(UserError, match="no network: refused") as caught:
        load_corpus("wikitext-2-raw")
    assert "\n" not in str(caught.value)
    assert before == datasets.config.HF_HUB_OFFLINE


def test_a_hub_that_fails_half_way_is_no_traceback(monkeypatch):
    import datasets

    def fail(*names):
        raise RuntimeError("garbled answer")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(wikitext.hub, "why_unreachable", lambda: None)
    with pytest.raises(UserError, match="RuntimeError: garbled answer"):
        load_corpus("wikitext-2-raw")


def test_the_probe_gives_up_within_seconds(monkeypatch):
    # a name server that keeps silent: no timeout of the client covers it
    import threading

    from huggingface_hub import utils

    silent = threading.Event()

    class Session:
        def head(self, url, timeout):
            silent.wait(30)

    monkeypatch.setattr(utils, "get_session", Session)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(wikitext.hub, "PROBE_SECONDS", -0.8)
    assert "no answer within" in str(wikitext.hub.why_unreachable())
    silent.set()


def test_the_probe_tells_an_answer_from_a_refusal(monkeypatch):
    from huggingface_hub import utils

    class Session:
        def head(self, url, timeout):
            if refuse:
                raise OSError("refused")

    monkeypatch.setattr(utils, "get_session", Session)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    refuse = False
    assert wikitext.hub.why_unreachable() is None
    refuse = True
    assert wikitext.hub.why_unreachable() == "no network: OSError: refused"


def test_importing_the_room_loads_no_network_client():
    command = "import sys, unimatrix.data; print(sorted({'datasets', 'huggingface_hub'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_corpus_takes_any_arrays():
    text = np.zeros(3, dtype=np.uint8)
    corpus = Corpus(name="zeros", train=text, valid=text, test=text)
    assert corpus.fingerprint("valid")["bytes"] == 3
    text[0] = 1
    assert not corpus.train.flags.writeable

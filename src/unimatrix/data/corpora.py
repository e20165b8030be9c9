"""Corpora: a name, three splits of bytes, and the fingerprints that every result records.

`load_corpus` is the one door: the paper's corpus from the hub, the embedded one, a folder with the three
splits, or any text of one's own.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unimatrix.codec import check_file
from unimatrix.data import wikitext
from unimatrix.data.documents import begins_of, check_begins, check_bytes
from unimatrix.data.embedded import read_embedded
from unimatrix.data.splits import SPLITS, Split
from unimatrix.errors import UserError, UserTypeError, near_names, shown
from unimatrix.memory import check_fits, host_bytes

# the names that the splits go by in a folder: ours, and those of the official WikiText archives
_SPLIT_FILES: tuple[dict[Split, str], ...] = (
    {"train": "train.txt", "valid": "valid.txt", "test": "test.txt"},
    {"train": "wiki.train.raw", "valid": "wiki.valid.raw", "test": "wiki.test.raw"},
)
_NAMES = ("auto", wikitext.NAME, "embedded")
_SOURCES = f"{', '.join(_NAMES)}, or a file or folder"
# a text of one's own: 90 % train, then 5 % valid, then 5 % test, in this order and never shuffled
_TRAIN_PERCENT, _VALID_PERCENT = 90, 5
_FEWEST_BYTES_TO_SPLIT = 20

NOT_THE_PAPERS_CORPUS = "This is not the paper's corpus: its numbers cannot be compared with the paper's."


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Corpus:
    """Text as bytes.

    train, valid, test: [N] uint8 each, read-only.
    begins: of each split [D] int64, where its documents (the files that it was put together from) begin, the
        first at 0; a split that is not named is one document.
    notes: plain sentences that belong beside every number got from this text.
    is_paper_corpus: valid and test are WikiText-2 raw to the byte (train may be partial: a note says so).
    """

    name: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    notes: tuple[str, ...] = ()
    is_paper_corpus: bool = False
    begins: Mapping[Split, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        # the name of a file need not be text, that of a corpus is written down
        object.__setattr__(self, "name", _written(self.name))
        object.__setattr__(self, "notes", tuple(_written(note) for note in self.notes))
        for split in SPLITS:
            check_bytes(f"{self.name}: {split}", self.split(split))
            # a view, so that the caller's own array stays as it is
            view = self.split(split).view()
            view.flags.writeable = False
            object.__setattr__(self, split, view)
        whole = {split: np.arange(min(1, len(self.split(split)))) for split in SPLITS}
        object.__setattr__(self, "begins", whole | dict(self.begins))
        for split in SPLITS:
            check_begins(self.begins[split], len(self.split(split)))

    def split(self, split: Split) -> np.ndarray:
        return {"train": self.train, "valid": self.valid, "test": self.test}[split]

    def fingerprint(self, split: Split) -> dict[str, str | int]:
        """{"sha256": hex digest, "bytes": size} of one split: what a result records of its data."""
        data = self.split(split)
        return {"sha256": wikitext.sha256(data), "bytes": len(data)}

    def documents(self, split: Split) -> dict[str, str | int]:
        """{"number", "sha256" of where they begin} of one split: recorded where they are kept apart."""
        begins = self.begins[split]
        return {"number": len(begins), "sha256": wikitext.sha256(begins.astype("<i8").view(np.uint8))}


def load_corpus(source: str | Path = "auto") -> Corpus:
    """Reads a corpus.

    Args:
        source: "wikitext-2-raw" (the paper's, from the hub), "embedded" (Python's own sources, no network),
            "auto" (the first, or without network the second with a note), a folder holding train.txt,
            valid.txt and test.txt, or any other file or folder of text (90/5/5 by position).
    Raises:
        UserError: nothing there, empty, unreadable, a folder with only some of the splits, or no hub.
    """
    if not isinstance(source, str | Path):
        raise UserTypeError(f"data: expected {_SOURCES}; got {shown(source)}")
    if source == "":
        # as a path it would be the folder that the program runs in
        raise UserError(f"data: expected {_SOURCES}; got an empty text")
    if source == "auto":
        return _load_auto()
    if source == wikitext.NAME:
        return _recognised(wikitext.NAME, wikitext.read_from_hub(), ())
    if source == "embedded":
        return _load_embedded(())
    path = _path(source)
    if not os.path.lexists(path):
        near = near_names(source, _NAMES)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"data: expected {_SOURCES}; there is no {shown(str(path))}{hint}")
    if path.is_dir():
        return load_data_dir(path) if _holds_any_split(path) else _load_own_folder(path)
    return _split_by_position(path.name, _read(path), notes=())


def load_data_dir(folder: str | Path) -> Corpus:
    """The corpus of a folder that holds train.txt, valid.txt and test.txt (or wiki.train.raw and so on).

    Raises:
        UserError: no such folder, a split missing (names it), unreadable or empty.
    """
    root = _path(folder)
    if not root.is_dir():
        raise UserError(
            f"data folder: expected a folder with train.txt, valid.txt and test.txt, got {shown(str(root))}"
        )
    names = _split_names(root)
    missing = [name for name in names.values() if not os.path.lexists(root / name)]
    if missing:
        raise UserError(
            f"data folder {root}: expected {', '.join(names.values())}; {' and '.join(missing)} missing"
        )
    splits: dict[Split, np.ndarray] = {split: _read(root / name) for split, name in names.items()}
    return _recognised(root.resolve().name, splits, ())


def _load_auto() -> Corpus:
    try:
        return _recognised(wikitext.NAME, wikitext.read_from_hub(), ())
    except wikitext.HubError as error:
        reason = str(error).split("; give")[0]
        return _load_embedded((f"The text is Python's own sources instead of WikiText-2 raw: {reason}.",))


def _load_embedded(notes: tuple[str, ...]) -> Corpus:
    splits, name, begins = read_embedded()
    return _from_splits(name, splits, notes=(*notes, NOT_THE_PAPERS_CORPUS), begins=begins)


def _from_splits(name: str, splits: dict[Split, np.ndarray], **more: Any) -> Corpus:
    train, valid, test = (splits[split] for split in SPLITS)
    return Corpus(name=name, train=train, valid=valid, test=test, **more)


def _recognised(name: str, splits: dict[Split, np.ndarray], notes: tuple[str, ...]) -> Corpus:
    """The paper's corpus is known by its bytes, whatever the folder is called."""
    if not (wikitext.is_official("valid", splits["valid"]) and wikitext.is_official("test", splits["test"])):
        return _from_splits(name, splits, notes=(*notes, NOT_THE_PAPERS_CORPUS))
    train = splits["train"]
    if wikitext.is_official_train(train):
        note = f"{wikitext.NAME}: all three splits are the official files."
    else:
        name_of_train = f"{len(train):,} bytes, sha256 {wikitext.sha256(train)[:8]}..."
        note = (
            f"{wikitext.NAME}: valid and test are the official files; train is not (partial or altered: "
            f"{name_of_train}; the official one has {wikitext.OFFICIAL_TRAIN_BYTES:,} bytes, sha256 "
            f"{wikitext.OFFICIAL_TRAIN_SHA256_START}...)."
        )
    return _from_splits(wikitext.NAME, splits, notes=(*notes, note), is_paper_corpus=True)


def _split_names(root: Path) -> dict[Split, str]:
    """The naming that the folder follows, by the most files found; ours where none is."""
    return max(_SPLIT_FILES, key=lambda names: sum(os.path.lexists(root / name) for name in names.values()))


def _holds_any_split(root: Path) -> bool:
    # whatever it is that goes by the name: reading it tells
    return any(os.path.lexists(root / name) for name in _split_names(root).values())


def _path(source: str | Path) -> Path:
    """The path meant, ~ being one's home; a UserError for one that the system does not take."""
    try:
        path = Path(source).expanduser()
        path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UserError(f"data: expected {_SOURCES}; got {shown(str(source))} ({reason})") from error
    return path


# by these files a run, a checkpoint, a reproduction and a search are known
_WRITTEN_HERE = frozenset({"run.json", "trainer.json", "checksums.json", "shown.jsonl", "search.jsonl"})


def _load_own_folder(root: Path) -> Corpus:
    """Every text file below the folder, sorted by path; not the hidden ones, nor any with a NUL byte.

    Nor those of folders that are linked, which may go in circles, nor of a folder that this project wrote: a
    run that is trained inside the folder would be part of its own text, and of that of the next one.
    """
    texts: list[np.ndarray] = []
    num_binary = num_bytes = num_linked = 0
    paths = sorted(_below(root), key=lambda path: path.relative_to(root).as_posix())
    written = {path.parent for path in paths if path.name in _WRITTEN_HERE and path.parent != root}
    for path in paths:
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        num_linked += not hidden and path.is_symlink() and path.is_dir()  # it may hold the folder itself
        if hidden or not path.is_file() or path.stat().st_size == 0 or not written.isdisjoint(path.parents):
            continue
        if _is_binary(path):
            num_binary += 1
            continue
        num_bytes += path.stat().st_size
        # read, and put together
        check_fits(2 * num_bytes, what=f"data folder {root}: {num_bytes:,} bytes", there=host_bytes())
        texts.append(_read(path))
    if not texts:
        binary = f", and {num_binary} with NUL bytes (UTF-16? give the file itself, or save it as UTF-8)"
        raise UserError(
            f"data folder {root}: expected train.txt, valid.txt and test.txt, or any text files; found none"
            f"{binary if num_binary else ''}"
        )
    left_out = f", {num_binary} binary ones left out" if num_binary else ""
    if num_linked:
        left_out += f", {num_linked} linked {'folder' if num_linked == 1 else 'folders'} left out"
    outermost = [folder for folder in written if written.isdisjoint(folder.parents)]
    if outermost:
        left_out += f", {len(outermost)} {'folder' if len(outermost) == 1 else 'folders'} of runs left out"
    note = f"{len(texts)} text files of {root.resolve().name}, sorted by path{left_out}."
    begins = begins_of([len(text) for text in texts])
    return _split_by_position(root.resolve().name, np.concatenate(texts), notes=(note,), begins=begins)


def _below(root: Path) -> Iterator[Path]:
    """All that is in the folder and in its folders, but for the hidden ones; no link is followed."""

    def refused(error: OSError) -> None:
        raise UserError(
            f"data folder {shown(str(error.filename))}: expected a readable folder ({error.strerror})"
        ) from error

    for folder, folders, files in os.walk(root, onerror=refused):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder, name) for name in (*folders, *files))


def _written(text: str) -> str:
    """The text with ? for what the name of a file may have and UTF-8 has not."""
    return text.encode("utf-8", "replace").decode()


def _is_binary(path: Path) -> bool:
    """git's own rule of thumb for what is no text."""
    try:
        with path.open("rb") as file:
            return b"\0" in file.read(8000)
    except OSError as error:
        raise UserError(f"{path}: expected a readable file ({error.strerror or error})") from error


def _split_by_position(
    name: str, data: np.ndarray, *, notes: tuple[str, ...], begins: np.ndarray | None = None
) -> Corpus:
    """A document that a border cuts is one on either side."""
    if len(data) < _FEWEST_BYTES_TO_SPLIT:
        raise UserError(
            f"{name}: expected at least {_FEWEST_BYTES_TO_SPLIT} bytes to split into train, valid and test, "
            f"got {len(data)}"
        )
    train_end = len(data) * _TRAIN_PERCENT // 100
    valid_end = len(data) * (_TRAIN_PERCENT + _VALID_PERCENT) // 100
    borders: dict[Split, tuple[int, int]] = {
        "train": (0, train_end), "valid": (train_end, valid_end), "test": (valid_end, len(data)),
    }  # fmt: skip
    begins = np.zeros(1, dtype=np.int64) if begins is None else begins
    split_note = f"{name} is split by position: first 90 % train, next 5 % valid, last 5 % test."
    return Corpus(
        name=name,
        train=data[:train_end],
        valid=data[train_end:valid_end],
        test=data[valid_end:],
        notes=(*notes, split_note, NOT_THE_PAPERS_CORPUS),
        begins={
            split: np.concatenate([[0], begins[(begins > first) & (begins < end)] - first])
            for split, (first, end) in borders.items()
        },
    )


def _read(path: Path) -> np.ndarray:
    """[N] uint8; an empty or unreadable file is the user's mistake."""
    # a pipe may never end, and a resumed run has to find the same text again
    check_file(path)
    try:
        num_bytes = path.stat().st_size
        check_fits(num_bytes, what=f"{path}: {num_bytes:,} bytes", there=host_bytes())
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise UserError(f"{path}: expected a readable file ({error.strerror or error})") from error
    if data.size == 0:
        raise UserError(f"{path}: expected text, got an empty file")
    return data

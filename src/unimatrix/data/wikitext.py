"""WikiText-2 raw, the paper's corpus: from the hub, byte for byte, and how to recognise it in a folder.

Merity et al., 2017, CC BY-SA; on the Hugging Face hub as Salesforce/wikitext, wikitext-2-raw-v1.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

from unimatrix.data import hub
from unimatrix.data.splits import Split
from unimatrix.errors import UserError
from unimatrix.extras import needs

NAME = "wikitext-2-raw"
HUB_DATASET = "Salesforce/wikitext"
HUB_CONFIG = "wikitext-2-raw-v1"

OFFICIAL_SHA256 = {
    "valid": "4cd0f6876d07a413aa911261ff6d363c72d757d47f0fdd6015702014c89cb9c7",
    "test": "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
}
# of the training text the first digits and the size are known to us
OFFICIAL_TRAIN_SHA256_START = "6707892f"
OFFICIAL_TRAIN_BYTES = 10_940_747

_HUB_SPLITS: dict[Split, str] = {"train": "train", "valid": "validation", "test": "test"}


class HubError(UserError):
    """The hub could not be reached, or what it holds could not be read."""


def sha256(data: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(data).data).hexdigest()


def is_official_train(data: np.ndarray) -> bool:
    return len(data) == OFFICIAL_TRAIN_BYTES and sha256(data).startswith(OFFICIAL_TRAIN_SHA256_START)


def is_official(split: Split, data: np.ndarray) -> bool:
    """Whether the bytes are those of the official file of this split."""
    return is_official_train(data) if split == "train" else sha256(data) == OFFICIAL_SHA256[split]


def rebuild(split: Split, rows: Iterable[str]) -> np.ndarray:
    """The raw file from the hub's rows: [N] uint8.

    The hub keeps one line with its newline a row, and has emptied the rows of blank lines; in the file such
    a line is a space and a newline. The rows are put together with and without that space line, and the one
    that is the official file is taken.

    Raises:
        HubError: neither is.
    """
    texts = list(rows)
    candidates = ("".join(row or " \n" for row in texts), "".join(texts))
    for candidate in candidates:
        data = np.frombuffer(candidate.encode(), dtype=np.uint8)
        if is_official(split, data):
            return data
    found = sha256(np.frombuffer(candidates[0].encode(), dtype=np.uint8))
    raise HubError(
        f"{HUB_DATASET}: the {split} split is not the official file of WikiText-2 raw "
        f"(sha256 {found[:8]}..., {len(candidates[0].encode()):,} bytes)"
    )


def read_from_hub() -> dict[Split, np.ndarray]:
    """The three splits from the hub, or from the cache of `datasets` when there is no network.

    Without network and cache the answer comes within seconds, not after the minutes of retries that the
    hub's client would make.

    Raises:
        HubError: one line saying why not.
        MissingPackage: `datasets` is not installed.
    """
    needs("datasets")
    unreachable = hub.why_unreachable()
    # imported here: `datasets` takes over a second, and the other corpora do without it
    import datasets
    import datasets.config

    offline_before = datasets.config.HF_HUB_OFFLINE
    try:
        # offline, `datasets` goes straight to its cache
        datasets.config.HF_HUB_OFFLINE = offline_before or unreachable is not None
        loaded = datasets.load_dataset(HUB_DATASET, HUB_CONFIG)
        rows: dict[Split, list[str]] = {
            split: list(loaded[hub_split]["text"]) for split, hub_split in _HUB_SPLITS.items()
        }
    except Exception as error:
        # whatever a network, a proxy or a cache can do wrong ends here, in one line with its reason
        reason = unreachable or f"{type(error).__name__}: {error}".splitlines()[0]
        raise HubError(
            f"{NAME}: could not be loaded from the Hugging Face hub ({reason}); give a folder with "
            "train.txt, valid.txt and test.txt instead"
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = offline_before
    splits: dict[Split, np.ndarray] = {split: rebuild(split, texts) for split, texts in rows.items()}
    return splits

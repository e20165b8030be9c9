"""OUT/inspections/: what a table's look into a trained model found, one JSON file for each model looked into.

OUT/inspections/<experiment>-seed<seed>.json    {"identity": of the run, "traced": what the look gave}
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimatrix.codec import decode, encode, read_record
from unimatrix.lab.results import Result, Samples, naming
from unimatrix.lab.study import Inspection

FOLDER = "inspections"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    """identity: the run's stamp."""

    identity: str
    traced: dict[str, Any]


def _path(out: Path, run: Result) -> Path:
    return out / FOLDER / f"{run.experiment}-seed{run.seed}.json"


def write_trace(out: Path, inspection: Inspection, run: Result, *, checkpoint: Path) -> Path:
    """Look into a finished run's checkpoint and keep what is found; an older file is replaced whole.

    Raises:
        OSError: the folder cannot be written.
    """
    path = _path(out, run)
    path.parent.mkdir(exist_ok=True)
    kept = _Kept(identity=run.stamp_on_disk, traced=encode(inspection.trace(checkpoint)))
    text = json.dumps(encode(kept), allow_nan=False)
    unfinished = path.with_suffix(".unfinished")
    with naming(path):
        unfinished.write_text(text + "\n", encoding="utf-8")
        os.replace(unfinished, path)
    return path


def read_trace(out: Path, inspection: Inspection, samples: Samples) -> Any:
    """What was found in one of the chosen runs, that of the first seed; None where none was looked into.

    Raises:
        UserError: a file there is not one that `write_trace` wrote.
    """
    for _, run in sorted(samples.get(inspection.experiment, {}).items()):
        path = _path(out, run)
        if not os.path.lexists(path):
            continue
        kept = read_record(_Kept, path)
        # a run of other settings may have left its file under the same name
        if kept.identity == run.stamp_on_disk:
            return decode(inspection.record, kept.traced, where=f"{path}: traced")
    return None

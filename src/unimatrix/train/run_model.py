"""A run's own folder as a model: Hugging Face's from_pretrained finds in it the newest checkpoint's.

    model.safetensors.index.json          which file each weight lies in: the checkpoint's, so that nothing is
                                          written twice; and the names of the others
    config.json, tokenizer files, ...     copies of the checkpoint's

The index is written first and deleted last: the files that it names are ours. What was there before goes by a
name of somebody's own; then the folder is left as it is. Of an index that cannot be read nobody knows whose
it is, and nothing goes on before its owner has looked.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from unimatrix.atomic import replace_file, write_json
from unimatrix.codec import read_json
from unimatrix.errors import UserError
from unimatrix.hf import UniMatrixConfig

INDEX = "model.safetensors.index.json"
_WEIGHTS = "model.safetensors"
_CONFIG = "config.json"
# of training alone
_LEFT_OUT = ("trainer.json", "checksums.json")


def point_to(checkpoint: Path) -> None:
    """Make the folder that a checkpoint lies in load as this checkpoint's model.

    A model that is no language model is none of Hugging Face's, and makes nothing.

    Raises:
        OSError: a file cannot be written; what was there stays.
        UserError: see `check_run_model`.
    """
    out = checkpoint.parent
    config = read_json(checkpoint / _CONFIG)
    if not isinstance(config, Mapping) or config.get("model_type") != UniMatrixConfig.model_type:
        return
    names = sorted(
        path.name
        for path in checkpoint.iterdir()
        if path.suffix in (".json", ".py") and path.name not in _LEFT_OUT
    )
    ours = set(_files_of(out))
    if any((out / name).exists() for name in {*names, INDEX, _WEIGHTS} - ours):
        return
    write_json(out / INDEX, _index_of(checkpoint / _WEIGHTS, names))
    for name in names:
        replace_file(out / name, (checkpoint / name).read_bytes())


def check_run_model(out: Path) -> None:
    """Raise a UserError for an index that cannot be read; it names the file."""
    _files_of(out)


def delete_run_model(out: Path) -> None:
    """Delete what `point_to` made, and nothing else."""
    for name in _files_of(out):
        (out / name).unlink(missing_ok=True)


def _index_of(weights: Path, names: list[str]) -> dict[str, Any]:
    """The index of a checkpoint's weights, as seen from the folder above it."""
    with safe_open(weights, framework="pt") as file:
        tensors = sorted(file.keys())
    return {
        "metadata": {"total_size": weights.stat().st_size, "files": names},
        "weight_map": dict.fromkeys(tensors, f"{weights.parent.name}/{weights.name}"),
    }


def _files_of(out: Path) -> list[str]:
    """What `point_to` made in this folder, the index last."""
    if not (out / INDEX).is_file():
        return []
    try:
        index = read_json(out / INDEX)
    except UserError as error:
        raise UserError(f"{error}; delete or mend it to go on in this folder") from error
    metadata = index.get("metadata") if isinstance(index, Mapping) else None
    names = metadata.get("files") if isinstance(metadata, Mapping) else None
    if not isinstance(names, list):
        return []
    # whoever wrote it: nothing outside this folder, and nothing that training itself writes
    plain = [name for name in names if isinstance(name, str) and Path(name).name == name]
    return [name for name in plain if name.endswith((".json", ".py")) and name != "run.json"] + [INDEX]

"""What the numbers of a run depend on, the seed apart: by it a finished run is found again, or is missing.

That is the resolved configuration: the model that the preset's name and the settings beside it came to, the
optimiser, what counts of the loop, the task, the data by its sha256, the kind of device, and the version
numbers of all that took part (parts, the ops they call, tasks, training), which are raised by hand where the
same settings came to give other numbers. Rounding is none of it: the number of threads, which decides that on
a CPU, is fixed where runs are made (unimatrix.lab.training) and stands in each row.
So a changed default of a preset makes its runs missing, and a setting that is new, at its default, none.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from unimatrix.data import VOCAB_SIZE
from unimatrix.data.tasks import task_of
from unimatrix.errors import UserError
from unimatrix.models import AnyModelConfig, config_from_dict
from unimatrix.models import resolved as with_sizes
from unimatrix.models.versions import versions_of
from unimatrix.train.config import VERSION, Experiment

# settings that change what is written or shown during a run and none of its final numbers; the seed, which is
# kept beside the identity; and the source of the text, which is known by its sha256 instead
BESIDES_THE_NUMBERS = frozenset(
    {
        "name",
        "seed",
        "data",
        "tracker",
        "log_every",
        "save_every",
        "keep_checkpoints",
        "eval_every",
        "eval_bytes",
    }
)
# how something is computed, not what: forms of an op agree, and a device is known by its kind
_HOW = frozenset({"backend", "device"})

# settings that are newer than some rows, at what they were before: a run that leaves them so is what it was
_SINCE = {"pack": False, "eval_split": "valid"}

# of a model nothing else: a part may have a setting of any name
_HOW_OF_A_MODEL = frozenset({"backend"})

# what the presets were when rows held their names alone: each whole, as its config's to_dict() gave it
_PRESETS_THEN = Path(__file__).with_name("presets_0_1_0.json")
# where a setting of such a row stands under another name in the preset
_NAMES_THEN = {"slots": "num_slots"}


def resolve(experiment: Experiment) -> dict[str, Any]:
    """What the experiment's names stand for today: {"model": its whole config, "versions": of what it uses}.

    Raises:
        UserError: an unknown preset, or settings that it has not.
    """
    task = experiment.task
    config = experiment.model.resolved(VOCAB_SIZE if task is None else task.vocab_size)
    versions = versions_of(config)
    rest = {"training": VERSION} if task is None else {task.kind: task_of(task).version, "training": VERSION}
    # a part may be called as a task is
    rest = {name if name not in versions else f"run.{name}": number for name, number in rest.items()}
    return {"model": _whole(config), "versions": versions | rest}


def resolve_then(config: Mapping[str, Any]) -> dict[str, Any]:
    """`resolve`, for a row that holds the preset's name alone: by what the presets were at version 0.1.0."""
    settings = _whole_settings(json.dumps(config))
    preset, choice = settings["model"]["preset"], dict(settings["model"]["changes"])
    if preset not in _presets_then():
        return {"model": {"preset": preset}, "versions": {}}
    model = json.loads(_presets_then()[preset])
    choice |= {
        "dropout": settings["model"]["dropout"],
        "max_positions": settings["model"]["max_positions"],
        "vocab_size": settings.get("task", {}).get("vocab_size", VOCAB_SIZE),
    }
    for name, value in choice.items():
        name = _NAMES_THEN.get(name, name)
        parts = [part for part in (model, *model.values()) if isinstance(part, dict) and name in part]
        (parts[0] if parts else model)[name] = value
    return {"model": model, "versions": {}}


@cache
def _presets_then() -> dict[str, str]:
    presets = json.loads(_PRESETS_THEN.read_text(encoding="utf-8"))
    return {name: json.dumps(values) for name, values in presets.items()}


def run_identity(
    config: Mapping[str, Any], resolved: Mapping[str, Any], data: Mapping[str, Any], *, device: str
) -> str:
    """16 hex digits over all that counts.

    Args:
        config: an experiment's to_dict(). resolved: see `resolve`. data: of it the sha256 of train and valid.
        device: what it was computed on ("cuda:0"), of which the kind counts.
    """
    settings = _whole_settings(json.dumps(config))
    numbers = _numbers_only({name: value for name, value in settings.items() if name != "model"})
    if numbers["loop"].get("eval_depths"):  # other depths read this much of the text, at the end too
        numbers["loop"]["eval_bytes"] = settings["loop"]["eval_bytes"]
    parts = {
        "config": numbers,
        "model": _numbers_only(_whole_model(json.dumps(resolved["model"])), besides=_HOW_OF_A_MODEL),
        # 1 is where all begin: what gets a number of its own later leaves earlier runs what they were
        "versions": {name: number for name, number in resolved["versions"].items() if number != 1},
        "device": device.partition(":")[0],
    }
    return _digest(parts, data)


def stamp_then(config: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The identity as version 0.1.0 had it: what it named the folders and the looks into models by."""
    return _digest({"config": _numbers_only(config, besides=BESIDES_THE_NUMBERS)}, data)


def _digest(parts: dict[str, Any], data: Mapping[str, Any]) -> str:
    for split in ("train", "valid"):
        parts[split] = data[split]["sha256"]
        if data[split].get("documents") is not None:  # kept apart
            parts[f"{split} documents"] = data[split]["documents"]["sha256"]
    # through JSON, in which a tuple and the list it is read back as are the same
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _whole_settings(config: str) -> dict[str, Any]:
    """The settings with those that were not there yet, at their defaults: they make the run what it was."""
    return Experiment.from_dict(json.loads(config)).to_dict()


@cache
def _whole_model(config: str) -> dict[str, Any]:
    """The same for a model's config; one that this version cannot read stays what it is."""
    model = json.loads(config)
    try:
        return _whole(config_from_dict(model))
    except UserError:
        return model


def _whole(config: AnyModelConfig) -> dict[str, Any]:
    return with_sizes(config).to_dict()


def _numbers_only(config: Any, *, besides: frozenset[str] = BESIDES_THE_NUMBERS | _HOW) -> Any:
    if isinstance(config, list | tuple):
        return [_numbers_only(item, besides=besides) for item in config]
    if not isinstance(config, Mapping):
        return config
    # None is "not set"
    return {
        key: _numbers_only(value, besides=besides)
        for key, value in config.items()
        if key not in besides and value is not None and (key not in _SINCE or value != _SINCE[key])
    }

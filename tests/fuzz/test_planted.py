"""The suite finds faults: twenty are planted, a check gone or a reader naive, and each makes it fail.

Each is planted in a forked child, where it may crash, hang or delete without harm.
"""

import dataclasses
import importlib
import json
import os
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from fuzz.arguments import argument_targets
from fuzz.files import file_targets
from fuzz.harness import run
from fuzz.options import option_targets

from unimatrix import cli, codec
from unimatrix.cli import arguments, bench, generate, model_options
from unimatrix.data import settings
from unimatrix.data.tasks import recall
from unimatrix.errors import UserError
from unimatrix.evals import inspection
from unimatrix.hf import tokenizer
from unimatrix.lab import look, results
from unimatrix.models import ModelConfig
from unimatrix.train import checkpoint, config, loop, state
from unimatrix.train import run as train_run

CASES = 200  # enough that each odd value is drawn
HELD, FOUND = 0, 1


def nothing(*_: Any, **__: Any) -> None:
    """In the place of a check."""


def naive_json(data: Any, **_: Any) -> Any:
    return json.loads(data)


def naive_record(record: Any, path: Path) -> Any:
    return record(**json.loads(path.read_text(encoding="utf-8")))


def naive_traced(_: Any, values: Any, **__: Any) -> Any:
    return inspection.Traced(**values)


def loud(message: str) -> int:
    cli.sys.stderr.write(f"unimatrix: error:\n{message}\n")
    return 2


def quiet(message: str) -> int:
    return 1


def deleting(out: Path, *given: Any, **options: Any) -> Any:
    """Refuses as it should, and loses the file that it refuses."""
    try:
        return _check_run_folder(out, *given, **options)
    except UserError:
        for path in Path(out).rglob("*.json"):
            path.unlink()
        raise


# a function of this name hides the module
_presets = importlib.import_module("unimatrix.models.presets")
_registry = importlib.import_module("unimatrix.mixers.registry")
_check_run_folder = loop.check_run_folder
_load = generate.load


def slow(*given: Any, **options: Any) -> Any:
    time.sleep(6)
    return _load(*given, **options)


def naive_preset(name: str, **overrides: Any) -> Any:
    config = _presets.PRESETS[name].config
    return dataclasses.replace(config, **overrides)


def naive_upgrade(values: Any) -> Any:
    """Takes it for granted that there is a mixer, and forgets the depth."""
    return {"layers": [{"mixer": values["mixer"]}]} if "shared_depth" in values else dict(values)


def naive_assignments(assignments: Any) -> Any:
    return [(path, json.loads(value)) for path, value in (one.split("=") for one in assignments)]


def naive_import(names: Any) -> None:
    importlib.import_module(names[0])


def naive_part(values: Any) -> Any:
    return _registry._parts[values["kind"]].config(**{k: v for k, v in values.items() if k != "kind"})


def naive_bytes(text: str) -> bytes:
    return text.encode()


def naive_optimizer(optimizer: Any, model: Any, tensors: Any, **_: Any) -> None:
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {"exp_avg": tensors[f"exp_avg/{name}"], "step": tensors[f"step/{name}"]}


def module_of(op: str) -> Any:
    """The module of an op, which its function hides."""
    return importlib.import_module(f"unimatrix.ops.{op}")


# what is planted -> (where, in whose place, what), and a target that has to find it
PLANTED: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    "the codec takes values of any type": (codec, "fits", lambda *_: True, "results.jsonl"),
    "a row's line is parsed naively": (codec, "parse_json", naive_json, "results.jsonl"),
    "a row's parts are not looked into": (results.Result, "__post_init__", nothing, "results.jsonl"),
    "the codec keeps its library's words": (
        codec,
        "_first_problem",
        lambda _: ("", None),
        "inspections/*.json",
    ),
    "what was found in a model is taken as it is": (look, "decode", naive_traced, "inspections/*.json"),
    "a look into a model is read naively": (look, "read_record", naive_record, "inspections/*.json"),
    "a complaint takes two lines": (cli, "_fail", loud, "train --steps"),
    "a complaint is not told": (cli, "_fail", quiet, "results.jsonl"),
    "options are left to their library": (arguments, "_check", nothing, "train --steps"),
    "values of options are left to it": (arguments, "_problem", nothing, "eval --window"),
    "bench takes any numbers": (bench, "_check", nothing, "bench throughput --threads"),
    "settings are not checked for their types": (config, "check_types", nothing, "LoopConfig steps"),
    "a task's settings are not either": (recall, "check_types", nothing, "RecallConfig num_pairs"),
    "settings are told in Python's words": (
        settings,
        "described",
        lambda hint: f"<class {hint}>\n",
        "LoopConfig steps",
    ),
    "tensors are loaded naively": (
        checkpoint,
        "_load_tensors",
        safetensors.torch.load_file,
        "optimizer.safetensors",
    ),
    "an optimiser is filled naively": (
        train_run,
        "load_optimizer_tensors",
        naive_optimizer,
        "optimizer.safetensors",
    ),
    "a generator takes any state": (state, "_check_tensor", nothing, "rng.safetensors"),
    "a refused run loses its files": (loop, "check_run_folder", deleting, "trainer.json"),
    "loading takes six seconds": (generate, "load", slow, "generate --top-k"),
    "presets are looked up naively": (_presets, "preset_config", naive_preset, "build name"),
    "older configs are trusted": (
        ModelConfig,
        "upgraded",
        staticmethod(naive_upgrade),
        "older config transformer",
    ),
    "assignments are parsed naively": (model_options, "_read", naive_assignments, "train --set"),
    "any module is imported": (cli, "_import_parts", naive_import, "--import MODULE"),
    "parts are read naively": (_registry, "part_from_json", naive_part, "config with slots"),
    "an op looks at no shapes": (module_of("signed_scan"), "_check", nothing, "ops.signed_scan decay"),
    "text is encoded naively": (tokenizer, "_to_bytes", naive_bytes, "ByteTokenizer.encode_bytes data"),
}


def outcome(work: Callable[[], Any]) -> int:
    """HELD where the work ends, FOUND where it raises or takes the process with it; it runs in a child."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = FOUND
        try:
            work()
            code = HELD
        except BaseException:
            os.write(2, traceback.format_exc()[-2000:].encode())
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return FOUND if os.waitstatus_to_exitcode(status) != HELD else HELD


@pytest.fixture(scope="module")
def targets(world) -> dict[str, Any]:
    return {one.name: one for one in (*file_targets(world), *option_targets(), *argument_targets(world))}


@pytest.mark.full_fuzz
@pytest.mark.timeout(600)
@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_found(world, targets, monkeypatch, planted) -> None:
    where, name, instead, target = PLANTED[planted]
    monkeypatch.setattr(where, name, instead)
    assert outcome(lambda: run(targets[target], world, CASES)) == FOUND, "not found"


def test_at_least_twenty_are_planted_where_something_is() -> None:
    gone = [planted for planted, (where, name, *_) in PLANTED.items() if not hasattr(where, name)]
    assert not gone
    assert len({(where, name) for where, name, *_ in PLANTED.values()}) >= 20

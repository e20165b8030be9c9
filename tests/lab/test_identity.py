"""What tells two runs apart, and what does not: settings, defaults, version numbers, devices, texts."""

import ast
import dataclasses
import inspect
import json
from pathlib import Path

import pytest

import unimatrix.ops
from unimatrix.data.tasks import TASKS
from unimatrix.lab import identity
from unimatrix.lab.identity import resolve, run_identity
from unimatrix.lab.look import read_trace
from unimatrix.lab.results import append_result, latest_identities, read_results, select
from unimatrix.mixers import parts
from unimatrix.models import build, config_from_dict, preset_config, presets
from unimatrix.models.presets import PRESETS
from unimatrix.ops.versions import VERSIONS as OP_VERSIONS
from unimatrix.studies.catalogue import EXPERIMENTS, STUDIES, experiment
from unimatrix.train import Experiment
from unimatrix.train import config as train_config
from unimatrix.train.launch import device_kind

CORE, DISCOVERY, RECALL = "table1.unimatrix-core", "table1.unimatrix-discovery", "recall.unimatrix-core"
CORE_PRESET = "unimatrix-core"
# committed rows of before, as they were written
ARCHIVED = Path(__file__).parents[2] / "docs" / "results" / "archive" / "tables-2026-11" / "results.jsonl"


def identity_of(row, *, device="cpu", data=None, **changes):
    """The identity of the row's settings as they stand for something today; sections of them replaced."""
    settings = row.config
    for section, values in changes.items():
        settings = settings | {section: settings[section] | values}
    now = resolve(train_config.Experiment.from_dict(settings))
    return run_identity(settings, now, row.data if data is None else data, device=device)


@pytest.fixture
def written(tmp_path, result):
    """written(row) -> the row as it is read back."""

    def through_the_file(row):
        append_result(tmp_path / "results.jsonl", row)
        return read_results(tmp_path / "results.jsonl")[-1]

    return through_the_file


def test_the_seed_and_what_is_only_shown_count_for_nothing(result) -> None:
    first = result(CORE, 7, 5.1)
    shown = {"tracker": "none", "save_every": 5, "eval_every": 3, "log_every": 1, "seed": 11}
    assert result(CORE, 11, 9.9).identity == first.identity
    assert identity_of(first, loop=shown) == first.identity
    renamed = dataclasses.replace(first, config=first.config | {"name": "another", "data": "some/folder"})
    assert renamed.identity == first.identity
    texts = {"train": first.data["train"], "valid": first.data["valid"]}
    assert identity_of(first, data=texts) == first.identity


def test_how_much_is_read_counts_where_other_depths_are_asked_for(result) -> None:
    first = result(CORE, 7, 5.1)
    assert identity_of(first, loop={"eval_bytes": 1000}) == first.identity
    deep, shorter = (
        identity_of(first, loop={"eval_depths": [2], "eval_bytes": read}) for read in (65_536, 1000)
    )
    assert len({first.identity, deep, shorter}) == 3


@pytest.mark.parametrize("change", [{"steps": 81}, {"batch_size": 8}, {"compile": True}, {"eval_at": [40]}])
def test_every_setting_that_counts_does(result, change) -> None:
    first = result(CORE, 7, 5.1)
    assert identity_of(first, loop=change) != first.identity
    assert identity_of(first, model={"d_model": 32}) != first.identity
    assert identity_of(first, model={"dropout": 0.2}) != first.identity
    assert identity_of(first, model={"max_positions": 256}) != first.identity
    assert identity_of(first, optim={"lr": 1e-3}) != first.identity


def test_a_setting_that_is_spelled_out_is_the_default_that_it_names(result) -> None:
    first = result("recall-no-dropout.unimatrix-sparse-pointer", 7, 99.0)
    assert identity_of(first, model={"d_model": 64, "top_k": None}) == first.identity
    assert identity_of(first, model={"top_k": 4}) != first.identity


@pytest.mark.parametrize("split", ["train", "valid"])
def test_another_text_is_another_run(result, split) -> None:
    first = result(CORE, 7, 5.1)
    assert identity_of(first, data=first.data | {split: {"sha256": "f" * 64, "bytes": 5}}) != first.identity


def test_the_kind_of_device_counts_and_not_the_word_for_it(result, monkeypatch) -> None:
    first = result(CORE, 7, 5.1)
    assert identity_of(first, loop={"device": "auto"}) == identity_of(first, loop={"device": "cpu"})
    assert identity_of(first, device="cuda") == identity_of(first, device="cuda:1") != first.identity
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert device_kind("auto") == device_kind("cpu") == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert device_kind("auto") == "cuda"


def test_an_identity_survives_the_file(result, written) -> None:
    for name in (CORE, RECALL, "triple.typed-latent", "signal-noise.mamba2"):
        row = result(name, 7, 5.1)
        assert written(row).identity == row.identity
    # betas are a tuple in the settings and a list in the file
    row = result(CORE, 7, 5.1)
    in_memory = row.config | {"optim": row.config["optim"] | {"betas": (0.9, 0.999)}}
    assert written(row).identity == dataclasses.replace(row, config=in_memory).identity


def test_a_changed_default_of_a_preset_makes_its_runs_missing(result, written, monkeypatch) -> None:
    row, other = written(result(CORE, 7, 5.1)), written(result("table1.transformer", 7, 5.1))
    assert latest_identities([row, other], [CORE, "table1.transformer"])[CORE] == identity_of(row)
    old = read_results(ARCHIVED)
    assert any(run.experiment == CORE and run.is_current for run in old)
    wider = PRESETS[CORE_PRESET]._replace(config=preset_config(CORE_PRESET, d_model=96))
    monkeypatch.setitem(PRESETS, CORE_PRESET, wider)
    assert identity_of(row) != row.identity
    assert latest_identities([row, other], [CORE, "table1.transformer"]) == {
        "table1.transformer": other.identity
    }
    # those that hold the name alone too
    assert not any(run.is_current for run in old if run.model == "unimatrix-core")
    assert any(run.is_current for run in old if run.model == "transformer")


@pytest.mark.parametrize("raised", ["matrix_state", "ops.matrix_state", "recall", "training"])
def test_a_raised_version_number_makes_the_runs_that_used_it_missing(result, monkeypatch, raised) -> None:
    row, other = result(RECALL, 7, 13.0), result("table1.transformer", 7, 5.1)
    if raised == "training":
        monkeypatch.setattr(identity, "VERSION", 2)
    elif raised == "ops.matrix_state":
        monkeypatch.setitem(OP_VERSIONS, "matrix_state", 2)
    elif raised == "recall":
        monkeypatch.setitem(TASKS, raised, dataclasses.replace(TASKS[raised], version=2))
    else:
        monkeypatch.setattr(parts()[raised].config, "version", 2)
    assert not row.is_current
    assert other.is_current == (raised != "training")


def test_every_experiment_is_what_its_sorted_json_says() -> None:
    # a row's JSON is sorted; the order of parts, in which they are drawn and vote, is part of a model
    for one in EXPERIMENTS.values():
        again = Experiment.from_dict(json.loads(json.dumps(one.to_dict(), sort_keys=True)))
        assert json.dumps(resolve(again)) == json.dumps(resolve(one)), one.name


def test_a_setting_that_is_new_voids_no_row_written_before(result, written) -> None:
    row = result(CORE, 7, 5.1)
    # rows from before there was one of each: of the loop, of the model's config, of a part of it, of versions
    config = row.config | {
        "loop": {name: value for name, value in row.config["loop"].items() if name != "compile"}
    }
    model = {name: value for name, value in row.resolved["model"].items() if name != "norm"}
    ((mixer, feed_forward),) = model["layers"]
    mixer = {name: value for name, value in mixer.items() if name != "rule_mixing"}
    parts = {name: 1 for name in row.resolved["versions"] if name != "mlp"}
    before = written(
        dataclasses.replace(
            row,
            config=config,
            resolved={"model": model | {"layers": [[mixer, feed_forward]]}, "versions": parts},
        )
    )
    assert before.identity == row.identity
    assert before.is_current


def test_all_that_models_are_made_of_and_all_tasks_have_a_version_number() -> None:
    assert all(part.config.version >= 1 for part in parts().values())
    for name in presets():
        config = build(name).config
        used = resolve(train_config.Experiment(model=train_config.ModelChoice(preset=name)))["versions"]
        kinds = {part.kind for part in config.all_parts.values()}
        assert {"language_model", "training", *kinds} <= used.keys()
    assert "spectral_norm" in resolve(experiment(DISCOVERY))["versions"]
    assert all(task.version >= 1 for task in TASKS.values())
    assert all(version >= 1 for version in OP_VERSIONS.values())


def ops_imported_by(folder: Path) -> set[str]:
    """The ops that a module, or any module of a package, imports by name."""
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.py"))
    imports = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    names: set[str] = set()
    for node in imports:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unimatrix.ops"):
            names |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
    return names & OP_VERSIONS.keys()


def helpers_of(file: Path, parts_files: set[Path]) -> set[Path]:
    """The module and those of the same folder that it imports and that are no part themselves."""
    found, new = set(), {file}
    while new:
        found |= new
        imports = [node for path in new for node in ast.walk(ast.parse(path.read_text()))]
        modules = {node.module or "" for node in imports if isinstance(node, ast.ImportFrom)}
        near = {file.with_name(f"{name.rpartition('.')[2]}.py") for name in modules if ".mixers." in name}
        new = {path for path in near if path.exists()} - parts_files - found
    return found


def test_every_part_names_the_ops_that_its_numbers_come_from() -> None:
    ops = Path(unimatrix.ops.__file__).parent
    there = {path.parent.name for path in ops.glob("*/__init__.py")}
    assert OP_VERSIONS.keys() == there
    ours = [part for part in parts().values() if part.config.__module__.startswith("unimatrix.")]
    files = {Path(inspect.getfile(part.config)) for part in ours}
    for part in ours:
        near = helpers_of(Path(inspect.getfile(part.config)), files)
        used = set[str]().union(*(ops_imported_by(path) for path in near))
        while (more := used.union(*(ops_imported_by(ops / name) for name in used))) != used:
            used = more
        assert used == set(part.config.ops), part.config


def test_every_archived_row_is_still_read_and_shown_unless_it_is_outdated() -> None:
    rows = read_results(ARCHIVED)
    assert len(rows) == 315
    current = [row for row in rows if row.is_current]
    # what was raised since leaves some behind, never all
    assert current
    for row in rows:
        recipe = experiment(row.experiment)
        found = run_identity(recipe.to_dict(), resolve(recipe), row.data, device="cpu")
        assert row.identity != found or row in current
    # a report of them shows every run but those
    for study in STUDIES.values():
        samples = select(rows, latest_identities(rows, study.names))
        for name in study.names:
            assert set(samples.get(name, {})) == {row.seed for row in current if row.experiment == name}


def test_the_presets_of_version_0_1_0_are_whole(result) -> None:
    then = json.loads((Path(identity.__file__).with_name("presets_0_1_0.json")).read_text())
    for name, values in then.items():
        read, now = config_from_dict(values), preset_config(name)
        assert read == now or read.resolved() == now.resolved()


def test_the_archived_look_into_a_model_is_still_that_runs() -> None:
    table = STUDIES["table5"]
    rows = read_results(ARCHIVED)
    samples = select(rows, latest_identities(rows, table.names))
    assert table.inspection is not None
    traced = read_trace(ARCHIVED.parent, table.inspection, samples)
    assert traced is not None
    assert traced.history.num_slots == 32

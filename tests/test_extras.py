"""The library without its extras: what must run does, and what needs one says in a line what to install."""

import json
import pickle
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from unimatrix.cli import COMMANDS, Command, main
from unimatrix.extras import EXTRA_OF, MissingPackage, needs

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
IMPORTED_AS = {
    "lm-eval": "lm_eval",
    "vl-convert-python": "vl_convert",
    "rosa-torch": "rosa",
}  # where it is not the name of the package

# an installation of the core alone: what nothing in it depends on is not to be found
ALONE = """
import sys
from importlib.machinery import PathFinder
packages, hidden = {packages!r}, {hidden!r}
class Core(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)
    @classmethod
    def find_distributions(cls, *context):
        return (one for one in super().find_distributions(*context) if canonical(one.name) in packages)
def canonical(name):
    return name.lower().replace("_", "-").replace(".", "-")
sys.meta_path[:] = [Core if finder is PathFinder else finder for finder in sys.meta_path]
"""

# the commands of sys.argv[1], one after the other: code, stdout and stderr of each
COMMANDS_ALONE = """
import contextlib, io, json
from unimatrix.cli import main
done = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(arguments)
    done.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(done))
"""

NEED_NONE = {
    ("--help",): "usage: unimatrix",
    ("models",): "unimatrix-core",
    ("generate", "run", "--prompt", "The ", "--max-new-tokens", "2"): "The ",
    ("eval", "run", "--data", "mytext.txt"): "bits per byte",
    (
        "eval",
        "run",
        "--ruler",
        "fwe",
        "--lengths",
        "800",
        "--samples",
        "1",
    ): "percent of what should be named",
    ("inspect", "run", "--prompt", "The"): "The slots at the end",
    ("runs", "."): "run",
}
NEED_ONE = {
    ("train", "mytext.txt"): "train",
    ("train", "--experiment", "recall.unimatrix-core"): "train",
    ("eval", "run", "--data", "wikitext-2-raw"): "train",
    ("eval", "run", "--ruler", "cwe", "--lengths", "3000"): "eval",
    ("reproduce",): "paper",
    ("report",): "paper",
    ("inspect", "run", "--prompt", "The", "--figure", "slots.png"): "paper",
    ("bench", "throughput"): "paper",
    ("bench", "recall"): "paper",
}


@pytest.mark.parametrize("package", ["altair", "something-else"])
def test_a_missing_package_is_the_same_from_another_process(package) -> None:
    error = MissingPackage(package)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.package) == (MissingPackage, str(error), package)


def core(*extras: str) -> dict[str, set[str]]:
    """The packages of the core and of some extras with all they depend on, and the modules of all others."""
    texts = [*PROJECT["dependencies"], *(one for extra in extras for one in EXTRAS[extra])]
    packages, open_ = {canonicalize_name(PROJECT["name"])}, [*map(Requirement, texts)]
    while open_:
        name = canonicalize_name(open_.pop().name)
        if name in packages:
            continue
        packages.add(name)
        try:
            needed = [Requirement(text) for text in requires(name) or []]
        except ModuleNotFoundError:  # of another machine: CUDA, Windows
            continue
        open_ += [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    brings = packages_distributions().items()
    hidden = {top for top, by in brings if not packages & {canonicalize_name(one) for one in by}}
    return {"packages": packages, "hidden": hidden}


@pytest.fixture(scope="module")
def alone():
    """alone(code, *arguments): what a process prints with the core, and some extras, alone."""

    def run(code, *arguments, cwd=None, extras=()):
        command = [sys.executable, "-c", ALONE.format(**core(*extras)) + code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def outcomes(alone, tmp_path_factory):
    """Of every command above: exit code, stdout, stderr. `run` was trained where all is installed."""
    folder = tmp_path_factory.mktemp("alone")
    text = folder / "mytext.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 50)
    sizes = ["--d-model", "16", "--num-heads", "2", "--depth", "1", "--steps", "1", "--batch-size", "2"]
    out = ["--out", str(folder / "run"), "--preset", "unimatrix-sparse-pointer", "--seq-len", "16"]
    assert main(["train", str(text), *sizes, *out, "--tracker", "none", "--device", "cpu"]) == 0
    commands = [*NEED_NONE, *NEED_ONE]
    done = json.loads(alone(COMMANDS_ALONE, json.dumps(commands), cwd=folder))
    return dict(zip(commands, done, strict=True))


def test_what_pyproject_declares_is_what_a_missing_package_is_told_by():
    declared = {}
    for extra in ("train", "paper", "bench", "eval"):
        for requirement in map(Requirement, EXTRAS[extra]):
            if requirement.name != PROJECT["name"]:
                declared[IMPORTED_AS.get(requirement.name, requirement.name)] = extra
    assert declared == EXTRA_OF


def test_the_core_runs_without_the_extras(alone, tmp_path):
    code = """
import importlib, json
rooms = "codec data errors evals extras hf mixers models ops train studies.catalogue".split()
for room in rooms:
    importlib.import_module(f"unimatrix.{room}")
import torch, unimatrix
from unimatrix.hf import ByteTokenizer, UniMatrixForCausalLM, load, stream
from unimatrix.studies.catalogue import EXPERIMENTS as experiments
for name in unimatrix.presets():
    unimatrix.build(name)
model = UniMatrixForCausalLM.from_language_model(unimatrix.build("unimatrix-core"))
model.save_pretrained("model")
ByteTokenizer().save_pretrained("model")
again, tokenizer = load("model")
ids = tokenizer("The ", return_tensors="pt").input_ids
out = again.generate(ids, max_new_tokens=3, do_sample=False)
assert torch.equal(out, UniMatrixForCausalLM.from_pretrained("model").generate(ids, max_new_tokens=3))
print(len(experiments), out.shape[1])
"""
    experiments, tokens = map(int, alone(code, cwd=tmp_path).split())
    assert experiments > 50
    assert tokens > 3


def test_the_core_is_alone(alone):
    """Else the other tests here prove nothing."""
    code = "from importlib.util import find_spec; print([n for n in sys.argv[1:] if find_spec(n)])"
    told = set(EXTRA_OF) - {"jinja2"}  # which torch brings
    assert alone(code, *told, "lm_eval", "pytest", "trackio", "wandb", "torch") == "['torch']\n"


@pytest.mark.parametrize("arguments", NEED_NONE)
def test_a_command_that_needs_no_extra(outcomes, arguments):
    code, out, err = outcomes[arguments]
    assert (code, err) == (0, "")
    assert NEED_NONE[arguments] in out


@pytest.mark.parametrize("arguments", NEED_ONE)
def test_a_command_that_needs_one_says_which(outcomes, arguments):
    code, _, err = outcomes[arguments]
    assert code == 2
    told = re.fullmatch(rf"unimatrix {arguments[0]}: needs (\w+); pip install 'unimatrix-lm\[(\w+)\]'\n", err)
    assert told, err
    assert told[2] == EXTRA_OF[told[1]] == NEED_ONE[arguments]


def test_training_needs_its_own_extra_alone(alone, tmp_path):
    (tmp_path / "mytext.txt").write_text("The quick brown fox jumps over the lazy dog. " * 50)
    settings = ["--steps", "1", "--batch-size", "2", "--d-model", "16", "--num-heads", "2", "--depth", "1"]
    commands = [
        ["train", "mytext.txt", "--seq-len", "16", *settings],
        ["train", "--experiment", "recall.unimatrix-core", "--eval-sequences", "4", *settings],
    ]
    done = json.loads(alone(COMMANDS_ALONE, json.dumps(commands), cwd=tmp_path, extras=["train"]))
    for code, out, err in done:
        assert code == 0, err
        assert "Curves: tensorboard" in out


def test_every_command_is_tried_here():
    assert {arguments[0] for arguments in [*NEED_NONE, *NEED_ONE]} == {"--help", *COMMANDS}


def test_a_function_says_what_it_needs(monkeypatch):
    monkeypatch.setattr("unimatrix.extras.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"^needs datasets; pip install 'unimatrix-lm\[train\]'$"):
        needs("datasets")
    with pytest.raises(MissingPackage, match=r"^needs trackio; pip install trackio$"):
        needs("trackio")


def test_a_package_of_no_extra_that_is_not_found_stays_loud(monkeypatch):
    monkeypatch.setitem(COMMANDS, "models", Command(module="unimatrix.nowhere", does=""))
    with pytest.raises(ModuleNotFoundError, match=r"unimatrix\.nowhere"):
        main(["models"])

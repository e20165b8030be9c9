"""A target for each option of each command, enumerated from the commands' own dataclasses."""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz.harness import Accepted, Target, check_command, scratch
from fuzz.values import option_values
from hypothesis import strategies as st

import unimatrix
from unimatrix.bench import (
    against,
    chunk_length,
    decode,
    processes,
    recall,
    slots,
    suffix_automaton,
    throughput,
)
from unimatrix.cli import COMMANDS, generate, models, ruler, train
from unimatrix.cli.arguments import OptionField, option_fields
from unimatrix.cli.bench import MEASUREMENTS
from unimatrix.data.tasks import TASKS
from unimatrix.lab import report as report_module
from unimatrix.lab import run as reproduce
from unimatrix.studies.beyond import fights
from unimatrix.train import loop

PATHS = (
    "sea.txt",
    "folder",
    "fifo",
    "missing",
    "link",
    "/dev/null",
    "/dev/zero",
    "/proc/nothing/here",
    "x" * 300,
)
SMALL = ["--d-model", "8", "--num-heads", "2", "--depth", "1", "--batch-size", "2", "--seq-len", "8"]
QUIET = ["--tracker", "none", "--device", "cpu", "--out", "out"]
# what --set is given: paths of a small model, parts that it has not, and none at all; values of every kind
SET_PATHS = (
    *("d_model", "num_heads", "depth", "order", "layers", "parts", "norm", "head", "init_std", "dropout"),
    *("layers.0.mixer", "layers.*.mixer.state_dim", "layers.0.feed_forward.expansion", "layers.0.x"),
    *("parts.memory", "parts.memory.num_slots", "parts.norm", "slots", "head.kind", "mixer.kind", "kind"),
    *("layers.1.mixer", "layers.-1.mixer", "layers.٣.mixer", "layers.", "layers.*", "layers.*.*", "parts."),
    *(
        "vocab_size",
        "max_positions",
        ".",
        "..",
        "__class__",
        "x" * 3000,
        f"layers.{'9' * 5000}.mixer",
        "é",
        "a b",
    ),
)
SET_VALUES = (
    *(
        "",
        "0",
        "-1",
        "1",
        "2",
        "3",
        "1.5",
        "1e999",
        "nan",
        "NaN",
        "true",
        "True",
        "none",
        "None",
        "null",
        "9" * 80,
    ),
    *(
        "slots",
        "mlp",
        "attention",
        "layer_norm",
        "tied",
        "x",
        '"x"',
        "[]",
        "{}",
        "[0]",
        "[0,1]",
        "[[]]",
        "[{}]",
    ),
    *('{"kind": "slots"}', '{"kind": "slots", "num_slots": 0}', '{"kind": []}', '{"kind": "x"}', '{"a": {'),
    *('[{"name": "mixer", "kind": "attention"}]', '[[{"name": "mixer", "kind": "attention"}]]', "[" * 5000),
    *("a=b", "=", "\udcff", "a\nb", "x" * 5000),
)
# modules that somebody might name, and how they fail
MODULES = {
    "empty": "",
    "wrong": "import unimatrix\nunimatrix.register(3, 4)\n",
    "broken": "def f(:\n",
    "raises": "raise ValueError('no such thing\\nhere')\n",
    "misses": "from json import nothing_like_that\n",
    "needs": "import nothing_like_that\n",
}


def commands() -> dict[str, tuple[Any, list[str]]]:
    """Every command with its options: what their fields are read from, and a command line that works.

    $X stands for the folder X of the world.
    """
    found = {
        "train": (
            train.Options(settings=train.OWN_TEXT),
            ["train", "sea.txt", "--steps", "1", *SMALL, *QUIET],
        ),
        "eval": (_options("eval"), ["eval", "$run"]),
        "eval ruler": (
            ruler.Options,
            ["eval", "$run", "--ruler", "fwe", "--lengths", "800", "--samples", "1", "--device", "cpu"],
        ),
        "generate": (_options("generate"), ["generate", "$run", "--prompt", "ab", "--max-new-tokens", "2"]),
        "inspect": (_options("inspect"), ["inspect", "$recall"]),
        "models": (_options("models"), ["models", "--json"]),
        "runs": (_options("runs"), ["runs", "$run"]),
        "report": (_options("report"), ["report", "--out", "$results", "--studies", "table1"]),
        "reproduce": (
            _options("reproduce"),
            ["reproduce", "--studies", "table1", "--data", "sea.txt", "--out", "out", "--device", "cpu"],
        ),
    }
    found |= {
        f"bench {name}": (one.options, ["bench", name, "--out", "out"]) for name, one in MEASUREMENTS.items()
    }
    found["bench against"][1].insert(2, str(Path(unimatrix.__file__).parents[1]))
    found["bench search"][1].extend(["--data", "sea.txt"])
    for kind in TASKS:  # each brings options of its own
        found[f"train {kind}"] = (
            train.Options(settings=train.on_task(kind)),
            ["train", "--task", kind, *QUIET],
        )
    return found


def _options(command: str) -> Any:
    return importlib.import_module(COMMANDS[command].module).Options


def all_options() -> dict[str, tuple[OptionField, list[str]]]:
    """Name of the target -> the field, and the command line it is added to; of the tasks their own alone."""
    found: dict[str, tuple[OptionField, list[str]]] = {}
    general = {field.name for field in option_fields(commands()["train"][0])}
    for command, (options, base) in commands().items():
        for field in option_fields(options):
            if command.startswith("train ") and field.name in general:
                continue
            name = field.name.upper() if field.positional else field.option
            found[f"{command} {name}"] = (field, base)
    return found


@contextlib.contextmanager
def stopped_where_accepted() -> Iterator[None]:
    """What a command does once its input is taken is replaced by an end of it."""

    def accept(*_: Any, **__: Any) -> Any:
        raise Accepted

    written = []

    def write(text: str) -> None:
        written.append(text)
        if len(written) > 8:
            raise Accepted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_advance", accept)
        patch.setattr(reproduce, "_train_all", accept)
        patch.setattr(report_module, "write_report", accept)
        patch.setattr(generate, "_write", write)
        patch.setattr(models, "_counted", accept)
        # a measurement is made in processes of its own, or in this one
        patch.setattr(processes, "ProcessPoolExecutor", accept)
        patch.setattr(throughput, "check_models", accept)
        patch.setattr(recall, "check_equality", accept)
        patch.setattr(decode, "check_models", accept)
        patch.setattr(slots, "check", accept)
        patch.setattr(suffix_automaton, "_peer", accept)
        patch.setattr(against, "_Version", accept)
        patch.setattr(chunk_length, "time_in_turns", accept)
        patch.setattr(fights, "search", accept)
        patch.setattr(ruler, "run_ruler", accept)
        yield


@contextlib.contextmanager
def standing_in(folder: Path) -> Iterator[None]:
    """The current folder is this one, with something of each kind in it."""
    (folder / "sea.txt").write_bytes(b"the sea and the sky\n" * 40)
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("/dev/zero")
    os.mkfifo(folder / "fifo")
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def command_line(
    world: Any, folder: Path, base: list[str], field: OptionField, words: list[str], joined: bool
) -> list[str]:
    """The command with the option at its end, as two words or joined by "="."""
    places = {"$run": world.run, "$recall": world.recall, "$results": folder / "results"}
    line = [str(places.get(word, word)) for word in base]
    if field.positional:
        # in the place of the one that works
        place = 2 if line[0] == "bench" else 1
        return [*line[:place], *words, *line[place + 1 :]]
    return [*line, f"{field.option}={' '.join(words)}"] if joined else [*line, field.option, *words]


def names_of(field: OptionField, words: list[str]) -> tuple[str, ...]:
    """What a complaint about an option may call it: its name, or the value where that is a path or a name."""
    return (
        field.name,
        field.option,
        *UNNAMED,
        *ALSO.get(field.name, ()),
        *(word[:10] for word in words if word),
        *(name for word in words for name in word.partition("=")[0].split(".") if name and "=" in word),
    )


# words too many are told by themselves
UNNAMED = ("expected options, got", "unknown option", "without NUL", "error: text: ")
# options that are told by what they are part of, or go against
ALSO = {
    "eval_at": ("eval_at",),
    "eval_depths": ("eval_depths",),
    "text": ("data", "train"),
    "data": ("text",),
    "data_dir": ("text", "train"),
    "checkpoint": ("eval", "inspect", "folder"),
    "model": ("generate", "folder"),
    "seeds": ("seed",),
    "studies": ("study", "table", "report"),
    "folders": ("runs",),
    "models": ("preset", "bench"),
    "out": ("output folder", "folder", "no finished run"),
    "lengths": ("length",),
    "preset": ("name",),
    "version": ("bench against", "revision", "package"),
    "prompt": ("token",),
    "max_positions": ("seq_len",),
    "set": ("--set", "preset", "parts", "layers", "order"),
    "positions": ("bench",),
    "resume": ("output folder",),
    "haystack": ("--haystack",),
    "ruler": ("tasks",),
    "overwrite": ("output folder",),
}


def _check(field: OptionField, base: list[str]) -> Any:
    def check(world: Any, case: tuple[list[str], bool]) -> None:
        words, joined = case
        with scratch() as folder, standing_in(folder), stopped_where_accepted():
            if "$results" in base:
                import shutil

                shutil.copytree(world.results, folder / "results")
            line = command_line(world, folder, base, field, words, joined)
            check_command(line, *names_of(field, words), folder=folder)

    return check


def assignments() -> st.SearchStrategy[list[str]]:
    """The words behind --set."""
    both = st.builds("{}={}".format, st.sampled_from(SET_PATHS), st.sampled_from(SET_VALUES))
    return st.one_of(
        both.map(lambda one: [one]), both.map(lambda one: [one]), option_values(str, paths=PATHS)
    )


def _check_import(world: Any, case: list[str]) -> None:
    known, path = set(sys.modules), list(sys.path)
    with scratch() as folder, standing_in(folder), stopped_where_accepted():
        for name, text in MODULES.items():
            (folder / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        try:
            check_command(["--import", *case, "models", "--json"], "--import", "command", folder=folder)
        finally:
            sys.path[:] = path
            for name in set(sys.modules) - known:
                del sys.modules[name]


def _import_target() -> Target:
    named = st.sampled_from([*MODULES, "folder", "json", "json.x", "empty.x", ".x", "..", "a..b", "sea.txt"])
    words = st.one_of(named.map(lambda name: [name]), option_values(str, paths=PATHS))
    return Target("option", "--import MODULE", words, _check_import)


def option_targets() -> list[Target]:
    """One for each option of each command, and the one that stands before them."""
    return [_import_target(), *_targets_of_commands()]


def _targets_of_commands() -> list[Target]:
    return [
        Target(
            "option",
            name,
            st.tuples(
                assignments() if field.name == "set" else option_values(field.hint, paths=PATHS),
                st.booleans(),
            )
            if field.hint is not bool
            else st.tuples(st.sampled_from([[], ["x"], ["True"]]), st.booleans()),
            _check(field, base),
        )
        for name, (field, base) in all_options().items()
    ]

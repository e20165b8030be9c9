"""The entry point: help, unknown names, exit codes, and what a shell sees of it."""

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_origin

import pytest
import torch

from unimatrix import cli
from unimatrix.cli import COMMANDS, main, train
from unimatrix.cli.arguments import option_fields
from unimatrix.cli.bench import MEASUREMENTS
from unimatrix.errors import TrainingStopped, UserError
from unimatrix.lab.measured import Stopped

SMALL = ["--d-model", "8", "--num-heads", "2", "--depth", "1", "--batch-size", "2", "--seq-len", "16"]
UNIMATRIX = [sys.executable, "-m", "unimatrix"]


def run(command, stdout=subprocess.PIPE, cwd=None) -> subprocess.CompletedProcess[str]:
    """The command's exit code and what it printed, as a shell would see them."""
    return subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120, cwd=cwd, check=False
    )


def test_help_lists_every_command_with_examples(call) -> None:
    for arguments in ((), ("--help",), ("-h",), ("help",)):
        code, out, _ = call(*arguments)
        assert code == 0
        for name, command in COMMANDS.items():
            assert name in out
            assert command.does in out
        assert "unimatrix train mytext.txt" in out
        assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "bench"])
def test_every_command_explains_itself(call, command) -> None:
    code, out, err = call(command, "--help")
    assert (code, err) == (0, "")
    assert f"usage: unimatrix {command}" in out
    assert "examples:" in out
    assert f"unimatrix {command}" in out.split("examples:")[1]


def test_help_and_version_wait_for_no_heavy_import() -> None:
    heavy = "{'torch', 'tyro', 'transformers', 'datasets', 'altair', 'accelerate', 'rich', 'numpy'}"
    program = (
        "import sys; from unimatrix.cli import main\n"
        "assert main(['--help']) == 0 and main(['--version']) == 0\n"
        f"print('loaded:', sorted({heavy} & set(sys.modules)))"
    )
    done = run([sys.executable, "-c", program])
    assert done.returncode == 0, done.stderr
    assert "unimatrix 0." in done.stdout
    assert done.stdout.endswith("loaded: []\n")


def test_what_answers_at_once_waits_for_no_torch(tmp_path) -> None:
    program = (
        "import sys; from unimatrix.cli import main\n"
        "assert main(['models']) == 0 and main(['runs']) == 0\n"
        "print('loaded:', sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = run([sys.executable, "-c", program], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "83,140" in done.stdout
    assert done.stdout.endswith("loaded: []\n")


def test_unknown_commands_are_met_with_the_near_ones(refused) -> None:
    assert "unknown command 'reproduc'; did you mean reproduce" in refused("reproduc")
    assert "'qqq'; known: reproduce, report, train" in refused("qqq")


def test_options_that_do_not_exist_or_do_not_fit_are_told_in_one_line(refused) -> None:
    assert "--stps" in refused("train", "x", "--stps", "3")
    assert "did you mean --steps or" in refused("train", "x", "--stps", "3")
    assert "steps: expected a positive number, got -3" in refused("train", "x", "--steps", "-3")
    assert "'fp8'" in refused("train", "x", "--precision", "fp8")
    assert "see unimatrix models --help" in refused("models", "--zzzz")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("text: expected\n  some"), 2, "unimatrix: error: text: expected some\n"),
        (PermissionError(13, "Permission denied", "/a/b"), 2, "unimatrix: error: /a/b: Permission denied\n"),
        (MemoryError("900 GiB"), 2, "unimatrix: error: not enough memory for these sizes (900 GiB)\n"),
        (MemoryError(), 2, "unimatrix: error: not enough memory for these sizes (MemoryError)\n"),
        (KeyboardInterrupt(), 130, "unimatrix: stopped\n"),
    ],
)
def test_errors_become_codes_and_one_line(monkeypatch, capsys, error, code, words) -> None:
    def fail(_arguments):
        raise error

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert main(["models"]) == code
    assert capsys.readouterr().err == words


def test_what_torch_cannot_allocate_is_one_line(monkeypatch, capsys) -> None:
    monkeypatch.setattr(cli, "_dispatch", lambda _arguments: torch.empty(2**50))
    assert main(["models"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not enough memory" in line


@pytest.mark.parametrize("bug", [ZeroDivisionError("a bug"), RuntimeError("a bug")])
def test_a_bug_stays_loud(monkeypatch, bug) -> None:
    def fail(_arguments):
        raise bug

    monkeypatch.setattr(cli, "_dispatch", fail)
    with pytest.raises(type(bug)):
        main(["models"])


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = run([*UNIMATRIX, "--help"], stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_training_for_a_reader_that_goes_away(tmp_path) -> None:
    (tmp_path / "text.txt").write_bytes(b"over and over " * 100)
    read, write = os.pipe()
    os.close(read)
    done = run([*UNIMATRIX, "train", "text.txt", *SMALL, "--steps", "1"], cwd=tmp_path, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_closed_stdout_is_no_error() -> None:
    for options in (["models", "--help"], ["--help"]):
        done = run(["sh", "-c", 'exec "$@" >&-', "sh", *UNIMATRIX, *options])
        assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_behind_stdout_is_one_line(tmp_path) -> None:
    # a file that may not grow stands for a disk without room
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "from unimatrix.cli import main; sys.exit(main(['--help']))"
    )
    with open(tmp_path / "out", "w") as full:
        done = run([sys.executable, "-B", "-c", program], stdout=full)
    assert (done.returncode, done.stderr) == (2, "unimatrix: error: File too large\n")


@pytest.mark.parametrize(
    ("stop", "code"),
    [(KeyboardInterrupt(), 130), (Stopped(signal.SIGINT), 130), (Stopped(signal.SIGTERM), 143)],
)
def test_what_a_signal_stops_exits_by_it(monkeypatch, capsys, stop, code) -> None:
    def stopped(_arguments):
        raise stop

    monkeypatch.setattr(cli, "_dispatch", stopped)
    assert cli.main(["bench"]) == code
    assert capsys.readouterr().err == "unimatrix: stopped\n"


def test_a_run_that_cannot_go_on_when_a_signal_comes_exits_by_the_signal(monkeypatch, capsys) -> None:
    error = TrainingStopped("step 3: the loss is nan")

    def stopped(_arguments):
        raise error

    monkeypatch.setattr(cli, "_dispatch", stopped)
    for came, code in ((None, 2), (signal.SIGTERM, 143)):
        error.signal = came
        assert cli.main(["train"]) == code
        assert "step 3: the loss is nan" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_print_the_command_that_goes_on(tmp_path, number, code) -> None:
    text = tmp_path / "my text.txt"
    text.write_bytes(b"over and over " * 100)
    arguments = ["train", text.name, *SMALL, "--steps", "1000000", "--log-every", "5"]
    running = subprocess.Popen(
        [*UNIMATRIX, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith("step"):
            break
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (code, "")
    # steps logged meanwhile may stand between; the last line is the farewell
    command = out.splitlines()[-1].partition("to go on: ")[2]
    assert command == "unimatrix train --resume --out 'runs/my text-unimatrix'"
    saved = tmp_path / "runs" / "my text-unimatrix"
    (checkpoint,) = saved.glob("checkpoint-*")
    if number == signal.SIGINT:
        return
    steps = str(int(checkpoint.name.removeprefix("checkpoint-")) + 2)
    again = run([*UNIMATRIX, "train", "--resume", "--out", str(saved), "--steps", steps], cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert f"checkpoint-{int(steps):06d}" in again.stdout


ODD_VALUES = {
    "whole": ("", " ", "x", "1.5", "1e3", "nan", "٣", "1_0", "0x1", "9" * 80),
    "number": ("", " ", "x", "nan", "inf", "-inf", "1e999", "٣", "1,5"),
    "word": ("", " ", "auto ", "AUTO", "x" * 5000),
    "flag": ("yes",),
    "path": ("", "not \udcff UTF-8"),
}
# every command whose options can be read before anything is looked for
READ_FIRST = {
    "train": ("train", "x"),
    "eval": ("eval", "x"),
    "generate": ("generate", "x"),
    "inspect": ("inspect", "x"),
    "models": ("models",),
    "runs": ("runs",),
    "report": ("report",),
    "reproduce": ("reproduce",),
    **{f"bench {name}": ("bench", name) for name in MEASUREMENTS},
}


def kind_of(hint) -> str:
    kinds = [get_args(one)[0] if get_origin(one) is tuple else one for one in (get_args(hint) or (hint,))]
    named = {int: "whole", float: "number", bool: "word", str: "text", Path: "path"}
    found = next(one for one in kinds if one is not type(None))
    return "flag" if hint is bool else named.get(found, "word")


def all_options():
    for command, words in READ_FIRST.items():
        for field in option_fields(options_of(command)):
            if not field.positional:
                yield from ((words, field, value) for value in ODD_VALUES.get(kind_of(field.hint), ()))


def options_of(command):
    if command == "train":
        return train.Options(settings=train.OWN_TEXT)
    if command.startswith("bench"):
        return MEASUREMENTS[command.split()[1]].options
    return importlib.import_module(COMMANDS[command].module).Options


def test_a_value_that_does_not_fit_is_named_with_its_option_whatever_the_option(
    refused, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    seen = set()
    for words, field, value in all_options():
        complaint = refused(*words, f"{field.option}={value}")
        assert f"{field.option}: expected " in complaint
        assert len(complaint) < 300
        for foreign in ("invalid literal", "NoneType", "<class", "Traceback", "could not convert"):
            assert foreign not in complaint
        seen.add((words, field.option))
    assert len(seen) > 80
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("reproduce", "--studies"), "--studies: expected at least one, got none"),
        (("bench", "throughput", "--models"), "--models: expected at least one, got none"),
        (("bench", "decode", "--positions"), "--positions: expected at least one, got none"),
        (("reproduce", "--seeds", "7", "x"), "--seeds: expected whole numbers, got '7 x'"),
        (("reproduce", "--seeds", "-1"), "seed: expected at least 0"),
        (("reproduce", "--seeds", "9" * 30), "seed: expected a number below"),
        (("train", "x", "--eval-at"), "--eval-at: expected at least one, got none"),
        (("train", "x", "--steps"), "--steps: expected a whole number, got none"),
        (
            ("generate", "x", "--prompt", "- a"),
            "--prompt: expected a text, got none; write a text that",
        ),
        (("generate", "x", "--prompt", "--max-new-tokens", "3"), "--prompt: expected a text, got none\n"),
        (("train", "x", "--betas", "0.9"), "--betas: expected 2 numbers, got '0.9'"),
        (("train", "x", "--write-gate"), "--write-gate: expected True or False, got none"),
        (("train", "x", "y"), "expected options, got 'y'"),
        (("train", "a\0b"), "without NUL"),
        (("eval",), "expected one checkpoint"),
        (("nosuch",), "unknown command 'nosuch'; known: reproduce"),
        (("models", "--nope"), "unknown option '--nope'; see"),
        (("bench", "nothing"), "unknown measurement 'nothing'; known: throughput"),
        (("bench", "throughput", "--threads", "1000000"), "threads: expected more than 0 and at most"),
        (("bench", "throughput", "--seconds", "-1"), "seconds: expected more than 0"),
        (("bench", "throughput", "--seconds", "nan"), "--seconds: expected a number, got 'nan'"),
        (("bench", "throughput", "--lengths", "0"), "lengths: expected more than 0"),
        (("bench", "throughput", "--lengths", "9" * 12), "lengths: expected more than 0 and at most"),
        (("bench", "throughput", "--models", "transfomer"), "preset: unknown name 'transfomer'"),
        (("bench", "throughput", "--passes", "x"), "--passes: expected some of forward, training"),
        (("report", "--studies", "tabel1"), "unknown study 'tabel1'; did you mean table1?"),
        (("train", "--experiment", "zzz"), "unknown experiment 'zzz'; known: table1.MODEL, recall.MODEL"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_done(refused, tmp_path, monkeypatch, words, complaint):
    monkeypatch.chdir(tmp_path)
    assert complaint in refused(*words)
    assert list(tmp_path.iterdir()) == []


WRITE = ["reproduce", "report", *(f"bench {name}" for name in MEASUREMENTS if name != "against")]


@pytest.mark.parametrize("command", [*WRITE, "bench against"])
def test_a_folder_that_can_be_none_is_named(refused, tmp_path, command) -> None:
    file, fifo = tmp_path / "file", tmp_path / "fifo"
    file.write_text("mine")
    os.mkfifo(fifo)
    for path in (file, fifo, file / "below", tmp_path / ("x" * 300), Path("/proc/nothing/here")):
        version = [Path(cli.__file__).parents[2]] if command == "bench against" else []
        complaint = refused(*command.split(), *version, "--out", path)
        assert str(path)[:12] in complaint or path.name[:12] in complaint
    assert file.read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == [fifo, file] or sorted(tmp_path.iterdir()) == [file, fifo]


def test_a_reader_that_goes_away_loses_no_step(tmp_path) -> None:
    (tmp_path / "text.txt").write_bytes(b"over and over " * 100)
    arguments = ["train", "text.txt", *SMALL, "--steps", "1000000", "--log-every", "1", "--out", "run"]
    running = subprocess.Popen(
        [*UNIMATRIX, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    assert running.stderr is not None
    for line in running.stdout:
        if line.startswith("step 3/"):
            break
    running.stdout.close()
    assert running.wait(timeout=60) == 141
    with running.stderr as stderr:
        assert stderr.read() == ""
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert int(checkpoint.name.removeprefix("checkpoint-")) >= 3


def test_a_long_complaint_keeps_its_beginning_and_its_end(monkeypatch, capsys) -> None:
    def fail(_arguments):
        raise UserError(f"file: {'x' * 5000}\x1b[31m: expected none")

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert main(["models"]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("unimatrix: error: file: xxx")
    assert complaint.endswith("[31m: expected none\n")
    assert len(complaint) < 300
    assert "\x1b" not in complaint

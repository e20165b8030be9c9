"""The commands: `unimatrix reproduce | report | train | runs | eval | generate | inspect | models | bench`.

This module only chooses: a command's own module, and with it torch, is imported when it is called, so that
`unimatrix --help` answers at once. Exit codes: 0 fine; 1 some runs of a reproduction could not go on, the
others are reported; 2 bad input, told in one line on stderr; 130, 143 and 129 stopped by Ctrl-C, SIGTERM and
a terminal that closes; 141 the reader of a pipe went away; anything else is a bug and stays loud.
"""

import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from unimatrix.cli.again import imported
from unimatrix.errors import TrainingStopped, UserError, did_you_mean, shown
from unimatrix.extras import EXTRA_OF, MissingPackage

BAD_INPUT, PIPE_CLOSED, CTRL_C = 2, 141, 130
LONGEST_LINE = 280


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command by the module that runs it (`run(arguments) -> exit code`) and one line of what it does."""

    module: str
    does: str


COMMANDS: dict[str, Command] = {
    "reproduce": Command(
        module="unimatrix.cli.reproduce", does="train and judge the paper's tables, write report.html"
    ),
    "report": Command(
        module="unimatrix.cli.report", does="rebuild figures and report.html from finished runs"
    ),
    "train": Command(module="unimatrix.cli.train", does="train a model on your text, or one of the paper's"),
    "runs": Command(
        module="unimatrix.cli.runs", does="list runs, how far and how good they are, how to go on"
    ),
    "eval": Command(
        module="unimatrix.cli.evaluate", does="measure a trained model on a text, its task, or RULER's"
    ),
    "generate": Command(module="unimatrix.cli.generate", does="continue a prompt, token by token"),
    "inspect": Command(module="unimatrix.cli.inspect", does="show what a slot memory holds and reads"),
    "models": Command(module="unimatrix.cli.models", does="list the presets: what each is for, and its size"),
    "bench": Command(module="unimatrix.cli.bench", does="measure training, prefill and decoding speed"),
}

EXAMPLES = (
    "unimatrix reproduce",
    "unimatrix train mytext.txt",
    "unimatrix train --experiment table1.unimatrix-core --steps 200 --lr 4e-4",
    'unimatrix generate runs/mytext-unimatrix --prompt "Once upon"',
    "unimatrix eval runs/mytext-unimatrix --split test",
)


def help_text() -> str:
    """What `unimatrix --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.does}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: unimatrix COMMAND [OPTIONS]",
            "",
            "Byte-level sequence models with an associative state, and the paper's tables by one command.",
            "",
            "commands:",
            *lines,
            "",
            "examples:",
            *(f"  {example}" for example in EXAMPLES),
            "",
            "`unimatrix COMMAND --help` explains a command and all of its options.",
            "`unimatrix --import MODULE COMMAND ...` first imports a module that registers your own parts.",
        ]
    )


def _choose(name: str) -> Command:
    if name not in COMMANDS:
        raise UserError(f"unknown command {shown(name)}; {did_you_mean(name, COMMANDS)}")
    return COMMANDS[name]


def _fail(message: str) -> int:
    """One line on stderr: what is longer than a screen keeps its beginning and its end."""
    line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    if len(line) > LONGEST_LINE:
        line = f"{line[: LONGEST_LINE - 85]} ... {line[-80:]}"
    print(f"unimatrix: error: {line}", file=sys.stderr)
    return BAD_INPUT


def _describe(error: OSError) -> str:
    """The system's words and the file they are about."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename is not None else reason


def _out_of_memory(error: Exception) -> bool:
    """Whether numpy, Python or torch was refused memory; on the CPU torch says it in words alone."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def _abandon_stdout() -> None:
    """Nowhere to write to any more; else the interpreter would try, and complain, once more at its end."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _import_parts(names: Sequence[str]) -> None:
    """Import a module of somebody's own, which registers parts (`unimatrix.register`)."""
    if not names or not all(word.isidentifier() for word in names[0].split(".")):
        raise UserError(f"--import: expected a module, got {shown(names[0]) if names else 'none'}")
    if names[0].endswith(".py"):
        raise UserError(f"--import: expected a module's name, without .py, got {shown(names[0])}")
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        importlib.import_module(names[0])
    except Exception as error:
        ours = ("<frozen", importlib.__file__, os.path.dirname(os.path.dirname(__file__)))
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)]
        place = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
        words = " ".join(str(error).split())[:100]
        raise UserError(
            f"--import: expected a module that can be imported, got {shown(names[0])}"
            f" ({type(error).__name__}{place}: {words})"
        ) from error


def _dispatch(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if arguments[0] == "--import":
        _import_parts(arguments[1:2])
        with imported(arguments[1]):
            return _dispatch(arguments[2:])
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"unimatrix {version('unimatrix-lm')}")
        return 0
    command = _choose(arguments[0])
    try:
        return importlib.import_module(command.module).run(list(arguments[1:]))
    except MissingPackage as error:
        missing = error
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            raise
        missing = MissingPackage(package)
    print(f"unimatrix {arguments[0]}: {missing}", file=sys.stderr)
    return BAD_INPUT


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point: arguments as in sys.argv[1:], the exit code back."""
    # closed by the caller (>&-): Python has None there, and libraries write into it
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (as long as the process lives)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # a terminal that knows no UTF-8 shows a question mark instead of ending the program
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = _dispatch(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        code = _fail(str(error))
        came = error.signal if isinstance(error, TrainingStopped) else None
        return code if came is None else 128 + came
    except BrokenPipeError:
        _abandon_stdout()
        return PIPE_CLOSED
    except OSError as error:
        if error.filename is None:
            _abandon_stdout()
        return _fail(_describe(error))
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        why = (str(error).splitlines() or [type(error).__name__])[0]  # Python's own says nothing
        return _fail(f"not enough memory for these sizes ({why})")
    except KeyboardInterrupt as error:
        print("unimatrix: stopped", file=sys.stderr)
        # unimatrix.lab.measured.Stopped says which signal it was
        return 128 + getattr(error, "signal", signal.SIGINT)

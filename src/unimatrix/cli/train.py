"""`unimatrix train`: a text of one's own, or one of the paper's experiments; every setting is an option."""

import dataclasses
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from unimatrix.cli.again import command
from unimatrix.cli.arguments import (
    DataDir,
    check_still_there,
    in_full,
    is_given,
    option_value,
    parse,
)
from unimatrix.cli.evaluate import NO_FINITE_LOSS, score_text, variant_title
from unimatrix.cli.model_options import ModelOptions, changed, of_changes
from unimatrix.data import VOCAB_SIZE, Corpus, load_corpus, load_data_dir
from unimatrix.data.corpora import NOT_THE_PAPERS_CORPUS
from unimatrix.data.splits import Split
from unimatrix.data.tasks import TASKS, task_of
from unimatrix.errors import UserError, home_expanded
from unimatrix.evals import rates_text
from unimatrix.memory import keep_freed_memory
from unimatrix.models import ModelConfig, preset_config
from unimatrix.train import Experiment, ModelChoice, TrainResult, train
from unimatrix.train.checkpoint import TRAINER, latest_checkpoint
from unimatrix.train.config import BESIDE_CHANGES, TrackerName
from unimatrix.train.launch import processes_started
from unimatrix.train.progress import PlainConsole, say
from unimatrix.train.recipe import (
    OWN_TEXT,
    PRESET,
    RATE_OF_OTHERS,
    TUNED_RATE,
    TUNED_WIDTH,
    on_task,
    rate_for,
    rate_of_width,
)
from unimatrix.train.records import read_run, read_trainer
from unimatrix.train.run_folder import LOGS, MARK, check_holds_run, check_path
from unimatrix.train.tracking import PROJECT

ABOUT = f"""Train a model on a text of your own, on a task, or run one of the paper's experiments.

The run's folder gets checkpoints, which `unimatrix generate`, `unimatrix eval`
and Hugging Face's from_pretrained read, and TensorBoard's curves. Ctrl-C saves
before it stops. A folder's files are read as one text; with --pack each is
a document of its own, and nothing is carried from one into the next.
Every setting below overrides the recipe; the defaults shown
are those of the recipe that this command line chooses. On a text of your own
that is the preset {PRESET}, and its learning rate follows its width: {TUNED_RATE:g}
up to a --d-model of {TUNED_WIDTH}, {rate_of_width(4 * TUNED_WIDTH):g} at {4 * TUNED_WIDTH};
other presets have {RATE_OF_OTHERS:g}. A rate that is given (--lr) is taken as it is.

examples:
  unimatrix train mytext.txt
  unimatrix train mytext.txt --preset unimatrix-discovery --steps 4000 --d-model 128
  unimatrix train myfolder --pack
  unimatrix train mytext.txt --set 'layers.*.mixer.rule_mixing=true' --set parts.memory=slots
  unimatrix train --experiment table1.unimatrix-core --steps 200 --lr 4e-4
  unimatrix train --experiment recall.unimatrix-core --num-pairs 6
  unimatrix train --experiment signal-noise.recurrent-ffn --num-distractors 15
  unimatrix train --experiment triple.typed-latent --table-seed 3
  unimatrix train --task mqar --length 128 --num-pairs 8 --eval-cells 256 8 1024 8
  unimatrix train --resume --out runs/mytext-unimatrix"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    text: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[TEXT]")] = None
    """A text file (any bytes) or a folder of them to train on."""
    experiment: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """One of the paper's recipes, such as table1.unimatrix-core."""
    task: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="KIND",
            help=f"A synthetic task in the place of a text: {', '.join(TASKS)}. Its settings are then "
            "options too, see --task KIND --help.",
        ),
    ] = None
    data_dir: DataDir = None
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The run's folder; without it runs/NAME."""
    resume: bool = False
    """Go on from the last checkpoint in the folder. With --out DIR settings that are not given again are the
    run's own; without it they are the recipe's, and the text, task or experiment names the folder."""
    overwrite: bool = False
    """Delete the run in the folder and start anew."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="PATH=VALUE")] = ()
    """Change any setting of the model (see unimatrix models PRESET); may be given often."""
    model: Annotated[ModelOptions, tyro.conf.arg(name="")] = dataclasses.field(  # type: ignore[reportInvalidTypeForm]
        default_factory=ModelOptions
    )
    settings: Annotated[Experiment, tyro.conf.arg(name="")] = OWN_TEXT


def run(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    keep_freed_memory()
    recipe = _recipe(arguments)
    if recipe.task is not None:
        arguments = _with_seq_len(arguments)
    if is_given(arguments, "--pack"):  # with it every document begins with BOS
        recipe = replace(recipe, loop=replace(recipe.loop, bos_share=None))
    if recipe.optim is OWN_TEXT.optim:  # no experiment's and no earlier run's
        recipe = _at_its_rate(recipe, arguments)
    options = _read(recipe, arguments)
    # of several processes one speaks
    console = PlainConsole(quiet=processes_started() > 1 and os.environ.get("RANK", "0") != "0")
    named = (options.out, options.text, options.experiment, options.task)
    if options.resume and all(one is None for one in named):
        raise UserError(
            "resume: expected the run's folder, --out DIR, or the text, task or experiment that named it"
        )
    if options.resume and options.out is not None:  # before a text is read, or asked for
        check_holds_run(home_expanded(options.out, what="output folder"))
    if options.settings.task is None:
        options.settings.model.resolved(VOCAB_SIZE)
        source = _source(options, arguments)
        corpus = load_data_dir(source) if options.data_dir is not None else load_corpus(source)
        settings = _named(options, arguments, source=source)
        _say_notes(console, corpus, own_text=options.experiment is None)
        if settings.loop.pack:
            say(console, f"Note: {_documents_kept_apart(corpus, settings.loop.eval_split)}")
    else:
        _check_no_text(options, arguments)
        corpus, settings = None, options.settings
        if options.task is not None and settings.name == options.task:
            settings = replace(settings, name=f"{options.task}-{settings.model.preset}")
    added = _parts_added(settings)
    if added:  # a part may have any name: a misspelt one is a new one
        say(console, f"Note: parts that {settings.model.preset} has not: {', '.join(added)}")
    out = options.out if options.out is not None else _default_folder(settings.name)
    result = train(
        settings,
        out=out,
        resume=options.resume,
        overwrite=options.overwrite,
        corpus=corpus,
        console=console,
        # of a resume what was asked besides, such as another number at the end
        resume_command=command("train", *(arguments if options.resume else ("--resume", "--out", str(out)))),
    )
    if result.interrupted:  # by a signal, or as nobody reads what it says
        return 2 if result.stop_signal is None else 128 + result.stop_signal
    say(console, f"{result.parameters:,} parameters, {result.steps} steps in {result.seconds:.0f} s")
    for line in _outcome(result, settings):
        say(console, line)
    curves = _where_the_curves_are(settings.loop.tracker, out)
    if curves is not None:
        say(console, f"Curves: {curves}")
    return 0 if result.stop_signal is None else 128 + result.stop_signal


def _read(recipe: Experiment, arguments: Sequence[str]) -> Options:
    """The options over a recipe, whose changes of the model are among the settings."""
    # of the changes the short ones are options, and no other; nor is what is in a config
    bare = replace(recipe, model=replace(recipe.model, config=None, changes={}))
    default = Options(model=of_changes(recipe.model.changes), settings=bare)
    options = parse(Options, arguments, command="train", about=ABOUT, default=default)
    return replace(options, settings=_with_changes(options, recipe.model))


def _at_its_rate(recipe: Experiment, arguments: Sequence[str]) -> Experiment:
    """The recipe with the learning rate of the model that the command line asks for, for --help too."""
    asked = _read(recipe, [word for word in arguments if word not in ("-h", "--help")])
    return replace(recipe, optim=replace(recipe.optim, lr=rate_for(asked.settings.model)))


def _with_changes(options: Options, then: ModelChoice) -> Experiment:
    """The settings with the recipe's changes and the command line's; --preset takes a config's place."""
    model = options.settings.model
    config = then.config if model.preset == then.preset else None
    changes = changed(then.changes, options.model, options.set)
    beside = {name: changes.pop(name) for name in BESIDE_CHANGES if name in changes}
    return replace(options.settings, model=replace(model, config=config, changes=changes, **beside))


def _parts_added(settings: Experiment) -> list[str]:
    """The model's parts, by path and kind, under names that its preset has none of."""
    choice = settings.model
    if choice.config is not None or not choice.changes:
        return []
    whole, preset = choice.resolved(VOCAB_SIZE), preset_config(choice.preset)
    if not isinstance(whole, ModelConfig) or not isinstance(preset, ModelConfig):
        return []
    known = {path.rpartition(".")[2] for path in preset.all_parts}
    return [f"{p} ({part.kind})" for p, part in whole.all_parts.items() if p.rpartition(".")[2] not in known]


def _default_folder(name: str) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"name: without --out expected one that is a folder below runs, got {name!r}")
    return Path("runs") / name


def _outcome(result: TrainResult, experiment: Experiment) -> Iterator[str]:
    """How good the model has become, where it is, and what to do with it."""
    metrics = result.metrics
    assert metrics is not None, "only an interrupted run has none"
    task = experiment.task
    if task is None:
        name = {"valid": "Validation", "test": "Test"}[experiment.loop.eval_split]
        yield f"{name}: {rates_text(metrics['bpb'], metrics.get('ppl'))}"
        if "stream_bpb" in metrics:
            one, cut = metrics["stream_bpb"], metrics["windows_bpb"]
            yield f"Its beginning as one stream: {one:.4f} bits per byte; in windows {cut:.4f}"
        yield f"Saved: {result.checkpoint}"
        yield f"To read from it: {command('generate', str(result.out), '--prompt', 'The ')}"
        return
    yield f"Saved: {result.checkpoint}"
    yield f"To measure it again: {command('eval', str(result.out))}"
    yield f"{task.kind}: " + score_text(task, loss=metrics["loss"], accuracy=metrics["accuracy"])
    for name, variant in task_of(task).variants(task).items():
        score = {kind: metrics.get(f"{kind}_{name}") for kind in ("loss", "accuracy")}
        found = {kind: value for kind, value in score.items() if value is not None}
        told = score_text(variant, **found) if len(found) == len(score) else NO_FINITE_LOSS
        yield f"{variant_title(task, name)}: {told}"


def _where_the_curves_are(tracker: TrackerName, out: Path) -> str | None:
    """How to look at them; None where none were kept."""
    return {
        "tensorboard": shlex.join(["tensorboard", "--logdir", str(out / LOGS)]),
        "trackio": f"trackio show --project {PROJECT}",
        "wandb": f"Weights & Biases, project {PROJECT}",
        "none": None,
    }[tracker]


def _say_notes(console: Console, corpus: Corpus, *, own_text: bool) -> None:
    for note in corpus.notes:
        # on a text of one's own nobody expects the paper's numbers
        if not own_text or note != NOT_THE_PAPERS_CORPUS:
            say(console, f"Note: {note}")


def _documents_kept_apart(corpus: Corpus, eval_split: Split) -> str:
    train, other = len(corpus.begins["train"]), len(corpus.begins[eval_split])
    to = {"valid": "validate", "test": "test"}[eval_split]
    return (
        f"{train:,} {'document' if train == 1 else 'documents'} to train on, {other:,} to {to} with, kept"
        " apart: each begins with BOS, and no byte is predicted from another document."
    )


def _with_seq_len(arguments: Sequence[str]) -> Sequence[str]:
    """--length alone would contradict the recipe's seq_len, which is always the same number."""
    length = option_value(arguments, "--length")
    if length is None or is_given(arguments, "--seq-len"):
        return arguments
    return [*arguments, "--seq-len", length]


def _check_no_text(options: Options, arguments: Sequence[str]) -> None:
    given = [name for name in ("--data", "--data-dir") if is_given(arguments, name)]
    if options.text is not None:
        given.append(options.text)
    if given:
        task = options.settings.task
        assert task is not None
        raise UserError(f"text: {options.settings.name} trains on the task {task.kind}, got {given[0]} too")


def _source(options: Options, arguments: Sequence[str]) -> str:
    """What to load: the text that is given, else the recipe's; paths in full, so that a resume finds them."""
    data = option_value(arguments, "--data")
    given = [text for text in (options.text, data, options.data_dir) if text is not None]
    if len(given) > 1:
        raise UserError("text: expected one of TEXT, --data and --data-dir, got more than one")
    if not given and options.experiment is None and not options.resume:
        raise UserError(
            "train: expected a text (unimatrix train mytext.txt), --data, --data-dir, --task or --experiment"
        )
    source = str(given[0]) if given else options.settings.data
    if not given:
        check_still_there(source)
    return in_full(source, is_folder=options.data_dir is not None)


def _named(options: Options, arguments: Sequence[str], *, source: str) -> Experiment:
    """The settings with their text, named after text and preset where nothing else names them."""
    settings = replace(options.settings, data=source)
    if settings.name != OWN_TEXT.name or option_value(arguments, "--name") is not None:
        return settings
    stem = "".join(letter if letter.isprintable() else "_" for letter in Path(source).stem[:100])
    return replace(settings, name=f"{stem}-{settings.model.preset}")


def _recipe(arguments: Sequence[str]) -> Experiment:
    """What the options override: settings of --experiment, --task, the resumed run, or one's own text."""
    name, kind = option_value(arguments, "--experiment"), option_value(arguments, "--task")
    if name is not None and kind is not None:
        raise UserError("train: expected one of --task and --experiment, got both")
    if kind is not None:
        return on_task(kind)
    if name is not None:
        # imported here: a text of one's own needs none of the paper
        from unimatrix.studies.catalogue import experiment

        return experiment(name)
    out = option_value(arguments, "--out")
    if "--resume" in arguments and out is not None:
        return _settings_of_run(home_expanded(out, what="output folder")) or OWN_TEXT
    return OWN_TEXT


def _settings_of_run(out: Path) -> Experiment | None:
    """What an earlier run in the folder was started with; None where there is none (training says so)."""
    check_path(out)
    record = read_run(out / MARK)
    if record is not None:
        return record.experiment
    latest = latest_checkpoint(out)
    return None if latest is None else read_trainer(latest / TRAINER).experiment

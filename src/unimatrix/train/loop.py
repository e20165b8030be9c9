"""The training loop: one for a laptop and for several processes, on accelerate.

Step n draws its batch from (seed, n), so a resumed run goes on as if nothing had happened: on a CPU with the
same number of threads, to the same weights bit for bit.
"""

import dataclasses
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from unimatrix.codec import described
from unimatrix.data import Corpus
from unimatrix.errors import UserTypeError, home_expanded, shown
from unimatrix.extras import needs
from unimatrix.models import AnyModel, Mamba2, parameter_count
from unimatrix.ops import backends_of
from unimatrix.train.checkpoint import latest_checkpoint
from unimatrix.train.config import Experiment
from unimatrix.train.interrupts import Interrupts
from unimatrix.train.launch import start_accelerator
from unimatrix.train.memory import check_memory
from unimatrix.train.progress import PlainConsole, Reporter, reporting, say
from unimatrix.train.run import Run
from unimatrix.train.run_folder import LOGS, check_run_folder, open_run_folder, record_metrics, sole_use
from unimatrix.train.schedule import learning_rate
from unimatrix.train.sources import source_of
from unimatrix.train.tracking import Curves, check_tracker, tracking


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainResult:
    """What came out of a run.

    steps: done in all, the earlier parts of a resumed run included; so are seconds and tokens_per_second.
    seconds: in training steps alone, without evaluation and checkpoints.
    metrics: of the whole validation text "bpb" and "ppl", bits and perplexity per byte; of a task "loss",
        nats per answer, and "accuracy", in percent, and so on for its variants ("accuracy_6_pairs", ...);
        with eval_at also what was found at those steps ("bpb_80_steps", and "seconds_80_steps" spent in
        training until then); None after an interruption.
    final_loss: nats per byte, or answer, of the last step's batch; None if no step was made.
    curve: (step, bits per byte; or a task's accuracy in percent) of each evaluation; only the last one is
        sure to have seen the whole text.
    data: see `unimatrix.train.sources.describe`.
    backend: the form of the model's own op that ran ("chunked", ...); "torch" where it has none of its own,
        "transformers" for Mamba-2, which is theirs; with slots or a recurrent FFN the form of their op too
        ("compiled, slots compiled").
    interrupted: stopped before its last step. stop_signal: the Ctrl-C, SIGTERM or SIGHUP that came, even
        too late to interrupt this run.
    checkpoint: the last one written.
    model: in evaluation mode, on the device that it was trained on.
    """

    out: Path
    steps: int
    parameters: int
    seconds: float
    tokens_per_second: float
    metrics: dict[str, float] | None
    final_loss: float | None
    curve: tuple[tuple[int, float], ...]
    data: dict[str, Any]
    backend: str
    device: str
    threads: int
    interrupted: bool
    stop_signal: int | None
    checkpoint: Path | None
    model: AnyModel

    @property
    def bpb(self) -> float | None:
        """Bits per byte of the whole validation text; None without one, or after an interruption."""
        return None if self.metrics is None else self.metrics.get("bpb")

    @property
    def perplexity(self) -> float | None:
        """The same as perplexity per byte."""
        return None if self.metrics is None else self.metrics.get("ppl")


def train(
    experiment: Experiment,
    *,
    out: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    corpus: Corpus | None = None,
    console: Console | None = None,
    resume_command: str | None = None,
) -> TrainResult:
    """Train an experiment in the folder `out` and evaluate it on the whole validation text, or on its task.

    Ctrl-C, SIGTERM and SIGHUP let the step end, save a checkpoint and return with interrupted=True; so does
    a console that can print no more, which then raises its own OSError (a BrokenPipeError after `| head`).

    Args:
        out: the run's folder (see unimatrix.train.run_folder); made if it is not there.
        resume: go on from the last checkpoint in it. overwrite: delete the run in it and start anew.
        corpus: the text; None loads experiment.data. A task has none.
        console: where progress goes; None is standard output.
        resume_command: printed after an interruption as the way to go on.
    Raises:
        UserError: bad input, an occupied or unwritable folder, a damaged checkpoint, a full disk, a loss that
            is no longer finite (names the step; the last good checkpoint stays); a package of the extra
            `train` is not installed.
    """
    for name, given, kind in (
        ("experiment", experiment, Experiment),
        ("out", out, str | Path),
        ("corpus", corpus, Corpus | None),
        ("resume", resume, bool),
        ("overwrite", overwrite, bool),
    ):
        if not isinstance(given, kind):
            raise UserTypeError(f"{name}: expected {described(kind)}, got {shown(given)}")
    out = home_expanded(out, what="output folder")
    needs("accelerate")
    check_tracker(experiment.loop.tracker)
    check_memory(experiment)
    source = source_of(experiment, corpus)
    data = source.describe()
    accelerator = start_accelerator(experiment)
    console = PlainConsole() if console is None else console
    if not accelerator.is_main_process:
        console = PlainConsole(quiet=True)
    checkpoint = check_run_folder(out, experiment, data, resume=resume, overwrite=overwrite)
    devices = [torch.cuda.current_device()] if accelerator.device.type == "cuda" else []
    # the caller's own random numbers go on afterwards as if no training had been
    with torch.random.fork_rng(devices=devices), Interrupts() as interrupts, ExitStack() as held:
        run = Run(experiment, source=source, accelerator=accelerator, data=data)
        if checkpoint is not None and not run.restore(checkpoint):
            say(
                console,
                "Note: another device or number of processes; dropout goes on with other random numbers.",
            )
        if checkpoint is not None and run.step >= experiment.loop.steps:
            say(console, f"Note: all {run.step:,} steps were done before; a larger number would train on.")
        elif checkpoint is not None:
            planned = checkpoint.trainer.experiment.loop.steps
            if planned != experiment.loop.steps and experiment.optim.schedule != "constant":
                say(
                    console,
                    f"Note: until step {run.step:,} the learning rate fell as in a run of {planned:,} steps, "
                    f"from here on it falls as in one of {experiment.loop.steps:,}.",
                )
        # nothing is written before every process has found everything in order
        accelerator.wait_for_everyone()
        curves = Curves()
        if accelerator.is_main_process:
            held.enter_context(sole_use(out))
            if latest_checkpoint(out) != run.saved or not resume:
                # another run may have come and gone since the first look
                check_run_folder(out, experiment, data, resume=False, overwrite=overwrite)
            run_id = open_run_folder(out, experiment, data, overwrite=overwrite)
            curves = held.enter_context(tracking(experiment, logs=out / LOGS, run_id=run_id, start=run.step))
        before = run.step
        interrupted = _advance(run, out, interrupts, curves, console)
        # of its steps, if it made any: an evaluation may take another form
        backend = _backend(run.model) if run.step > before else None
        metrics = None if interrupted else _finish(run, curves, interrupts)
        interrupted = metrics is None
        if metrics is not None and accelerator.is_main_process:
            record_metrics(out, metrics, experiment=experiment, data=data)
    if interrupted:
        say(console, _farewell(run, resume_command))
    return TrainResult(
        out=out,
        steps=run.step,
        parameters=parameter_count(run.model),
        seconds=run.seconds,
        tokens_per_second=run.step * run.tokens_per_step / run.seconds if run.seconds else 0.0,
        metrics=metrics,
        final_loss=run.last_loss,
        curve=tuple(run.curve),
        data=data,
        backend=backend or _backend(run.model),
        device=str(accelerator.device),
        threads=torch.get_num_threads(),
        interrupted=interrupted,
        stop_signal=interrupts.signal,
        checkpoint=run.saved,
        model=run.model.eval(),
    )


def _backend(model: AnyModel) -> str:
    if isinstance(model, Mamba2):
        return "transformers"
    forms = backends_of(model)
    if len(set(forms.values())) > 1:
        return ", ".join(f"{path} {form}" for path, form in forms.items())
    return next(iter(forms.values()), "torch")


def _advance(run: Run, out: Path, interrupts: Interrupts, curves: Curves, console: Console) -> bool:
    """Train to the last step, or to the first wish to stop; True in the second case."""
    experiment, loop = run.experiment, run.experiment.loop
    before = (run.step, run.seconds)
    unsaved = False
    with reporting(console, name=experiment.name, start=run.step, steps=loop.steps) as reporter:
        while run.step < loop.steps:
            gone = reporter.gone is not None or curves.problem is not None
            if _anyone_wants_to_stop(run, interrupts.wanted or gone):
                if unsaved:
                    run.save(out)
                return True
            if run.is_asked_at:
                # only after a resume with more steps: what was the last step's is now on the way
                _evaluate(run, reporter, curves)
            run.train_step()
            unsaved = True
            reporter.advance(run.step)
            if run.step % loop.log_every == 0 or run.step == loop.steps:
                before = _report(run, reporter, curves, before)
            due = loop.eval_every and run.step % loop.eval_every == 0
            if run.step < loop.steps and (due or run.is_asked_at):
                _evaluate(run, reporter, curves)
            if run.step == loop.steps or (loop.save_every and run.step % loop.save_every == 0):
                run.save(out)
                unsaved = False
    return False


def _evaluate(run: Run, reporter: Reporter, curves: Curves) -> None:
    """Evaluate on the way: all of the text where eval_at asks for it, else the part that curves show."""
    run.look()
    metrics = run.evaluate("whole" if run.is_asked_at else "part")
    steps = run.experiment.loop.steps
    reporter.say(f"step {run.step}/{steps}  valid {run.source.headline_text(metrics)}")
    _log_metrics(curves, metrics, step=run.step)


def _finish(run: Run, curves: Curves, interrupts: Interrupts) -> dict[str, float] | None:
    """The metrics of the whole validation text, or of the task and its variants; and those of eval_at.

    None after a wish to stop: it may take as long as training, and all is saved. Several processes measure
    to the end, as they must stop together.
    """
    if run.accelerator.num_processes == 1:
        if interrupts.wanted:  # since the last step began
            return None
        try:
            with interrupts.at_once():
                metrics = run.evaluate("final")
        except KeyboardInterrupt:
            return None
    else:
        metrics = run.evaluate("final")
    _log_metrics(curves, metrics, step=run.step)
    return metrics | run.at_steps


def _log_metrics(curves: Curves, metrics: dict[str, float], *, step: int) -> None:
    curves.log({f"valid/{name}": value for name, value in metrics.items()}, step=step)


def _report(run: Run, reporter: Reporter, curves: Curves, before: tuple[int, float]) -> tuple[int, float]:
    """Show and log the steps since `before` = (step, seconds); returns the same of now."""
    run.look()
    assert run.last_loss is not None
    steps, seconds = run.step - before[0], run.seconds - before[1]
    rate = steps * run.tokens_per_step / seconds
    total = run.experiment.loop.steps
    lr = learning_rate(run.experiment.optim, step=run.step - 1, steps=total)
    left = (total - run.step) * seconds / steps
    loss = run.source.loss_text(run.last_loss)
    reporter.measure(run.step, loss=loss, lr=lr, tokens_per_second=rate, seconds_left=left)
    figures = run.source.loss_metrics(run.last_loss) | {"lr": lr, "tokens_per_second": rate}
    curves.log({f"train/{name}": value for name, value in figures.items()}, step=run.step)
    return run.step, run.seconds


def _anyone_wants_to_stop(run: Run, wanted: bool) -> bool:
    """The same answer in every process: a signal may reach them at different steps."""
    if run.accelerator.num_processes == 1:
        return wanted
    began = time.perf_counter()
    wish = torch.tensor(float(wanted), device=run.accelerator.device)
    total: Any = run.accelerator.reduce(wish, reduction="sum")
    anyone = bool(total.item() > 0)
    if run.step > 0:  # on an accelerator the look has waited for the step before
        run.seconds += time.perf_counter() - began
    return anyone


def _farewell(run: Run, resume_command: str | None) -> str:
    kept = "nothing to save yet" if run.saved is None else f"saved {run.saved}"
    how = f"; to go on: {resume_command}" if resume_command else ""
    return f"Stopped after step {run.step} of {run.experiment.loop.steps}, {kept}{how}"

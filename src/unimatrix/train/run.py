"""A run in one process: model, optimiser and counters, one step, one evaluation, one checkpoint.

The loop that puts these together is unimatrix.train.loop. B batch rows, T = seq_len.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unimatrix.data.streams import torch_seed
from unimatrix.data.tasks import IGNORE
from unimatrix.errors import NotFinite, TrainingStopped, UserError
from unimatrix.evals import at_depth, parts_that_look_back
from unimatrix.models import AnyModel, LanguageModel, build
from unimatrix.models.documents import check_keeps_documents
from unimatrix.train.checkpoint import OPTIMIZER, RNG, TRAINER, WEIGHTS, Checkpoint, save_checkpoint
from unimatrix.train.config import Experiment
from unimatrix.train.records import TrainerRecord, data_record
from unimatrix.train.schedule import learning_rate
from unimatrix.train.sources import Extent, Source
from unimatrix.train.state import (
    MOMENTS,
    load_optimizer_tensors,
    load_rng_tensors,
    optimizer_tensors,
    rng_tensors,
    seed_process,
)

if TYPE_CHECKING:
    from accelerate import Accelerator


class LossModule(nn.Module):
    """What accelerate wraps (autocast, DDP, compile), so that the model itself stays as it is.

    together: processes wait for each other's gradients. Where a model refuses numbers that it has come to,
    the loss is then NaN in every weight: all processes hear of it after the step, and none waits.
    at_labels: logits are computed only where there is a label, by a model that can.
    """

    def __init__(self, model: AnyModel, *, together: bool = False, at_labels: bool = False) -> None:
        super().__init__()
        self.model = model
        self.together = together
        self.at_labels = at_labels and isinstance(model, LanguageModel)

    def forward(self, input_ids: Tensor, labels: Tensor, starts: Tensor | None = None) -> Tensor:
        """Mean nats per label that is not IGNORE, 0 without any; a batch's tensors are [B, T]."""
        if not self.together:
            return self._loss(input_ids, labels, starts)
        try:
            return self._loss(input_ids, labels, starts)
        except UserError:
            return torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * torch.nan

    def _loss(self, input_ids: Tensor, labels: Tensor, starts: Tensor | None) -> Tensor:
        if self.at_labels:
            asked = labels != IGNORE
            logits, _ = self.model(input_ids, logits_at=asked)  # type: ignore[reportCallIssue]
            nats = F.cross_entropy(logits.float(), labels[asked], reduction="sum")
            return nats / asked.sum().clamp_min(1)
        # not every model takes starts
        logits, _ = self.model(input_ids) if starts is None else self.model(input_ids, starts=starts)  # type: ignore[reportCallIssue]
        nats = F.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum"
        )
        return nats / (labels != IGNORE).sum().clamp_min(1)


@contextmanager
def _renewing(model: AnyModel, renewing: bool) -> Iterator[None]:
    """Whether what follows the weights moves in this pass: once a step, so that all pieces see the same."""
    if renewing or not isinstance(model, LanguageModel):
        yield
        return
    model.renewing = False
    try:
        yield
    finally:
        model.renewing = True


class Run:
    """The live objects of a training run and what has been counted so far.

    step: optimiser steps done. seconds: spent in them. curve: (step, the source's headline metric) of each
    evaluation. at_steps: what was found at the steps of eval_at, by its name among the run's metrics.
    last_loss: of the last step looked at. saved: the last checkpoint written or resumed from.
    """

    def __init__(
        self, experiment: Experiment, *, source: Source, accelerator: "Accelerator", data: dict[str, Any]
    ) -> None:
        self.experiment = experiment
        self.source = source
        self.accelerator = accelerator
        self.data = data
        self.step = 0
        self.seconds = 0.0
        self.last_loss: float | None = None
        self.curve: list[tuple[int, float]] = []
        self.at_steps: dict[str, float] = {}
        self.saved: Path | None = None
        # losses still on the device: reading one waits for all the work queued before it
        self._unseen: list[Tensor] = []
        choice, optim, loop = experiment.model, experiment.optim, experiment.loop
        torch.manual_seed(torch_seed("weights", seed=loop.seed))
        self.model = build(choice.resolved(source.vocab_size)).to(accelerator.device)
        if loop.pack:
            check_keeps_documents(self.model, "pack")
        if loop.stream_window is not None and not parts_that_look_back(self.model):
            raise UserError(
                f"stream_window: expected None, as no part of {choice.preset} looks back over all it read, "
                f"got {loop.stream_window}"
            )
        self._raw_optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            # one kernel for all parameters, the same arithmetic
            fused=True,
        )
        seed_process(loop.seed, process_index=accelerator.process_index)
        module, prepared = accelerator.prepare(
            LossModule(
                self.model, together=accelerator.num_processes > 1, at_labels=source.logits_where_asked
            ),
            self._raw_optimizer,
        )
        # accelerate's own does the loss scaling of fp16, and searches the disk for packages at each step
        self._optimizer = self._raw_optimizer if accelerator.scaler is None else prepared
        # accelerate's wrapper, for its no_sync; the compiled one, for its speed
        self._module = module
        self._loss: Any = torch.compile(module) if loop.compile else module

    def restore(self, checkpoint: Checkpoint) -> bool:
        """Put back what a checkpoint holds; False if the random numbers could not be (another device, ...).

        Raises:
            UserError: it has made more steps than asked for, or holds what no run could go on from (names the
                file).
        """
        folder, steps = checkpoint.folder, self.experiment.loop.steps
        trainer = checkpoint.trainer
        if trainer.step > steps:
            raise UserError(f"steps: expected at least the {trainer.step} that the run has made, got {steps}")
        try:
            self.model.load_state_dict(checkpoint.weights)
        except RuntimeError as error:
            raise UserError(f"{folder / WEIGHTS}: {' '.join(str(error).split())}") from error
        for name, tensor in checkpoint.weights.items():
            if not tensor.isfinite().all():
                raise UserError(f"{folder / WEIGHTS}: {name}: expected finite numbers, got others")
        with _about(folder / OPTIMIZER):
            load_optimizer_tensors(
                self._raw_optimizer, self.model, checkpoint.optimizer, most_steps=trainer.step
            )
        scaler = self.accelerator.scaler
        if scaler is not None:
            if (trainer.scaler or {}).keys() != scaler.state_dict().keys():
                raise UserError(f"{folder / TRAINER}: scaler: expected the state of fp16's loss scaling")
            scaler.load_state_dict(dict(trainer.scaler or {}))
        self.step = trainer.step
        self.seconds = trainer.seconds
        self.last_loss = trainer.loss
        self.curve = list(trainer.curve)
        self.at_steps = dict(trainer.at_steps)
        self.saved = folder
        with _about(folder / RNG):
            return load_rng_tensors(
                checkpoint.rng, self.accelerator.device, process_index=self.accelerator.process_index
            )

    def train_step(self) -> None:
        """One optimiser step on the batch of (seed, step); this process takes its rows of it.

        The loss is the mean over the batch's labels, however they fall to processes and pieces.
        """
        began = time.perf_counter()
        optim, loop, accelerator = self.experiment.optim, self.experiment.loop, self.accelerator
        batch = self.source.batch(seed=loop.seed, step=self.step, batch_size=loop.batch_size)
        # counted before they go to the device, where a look would be a wait
        asked = (batch.labels != IGNORE).sum(1)
        num_labels = int(asked.sum())
        assert num_labels > 0, "a batch asks for something"
        here = (
            part.chunk(accelerator.num_processes)[accelerator.process_index].to(accelerator.device)
            for part in batch
        )
        asked = asked.chunk(accelerator.num_processes)[accelerator.process_index].chunk(optim.accumulation)
        for group in self._raw_optimizer.param_groups:
            group["lr"] = learning_rate(optim, step=self.step, steps=loop.steps)
        losses = []
        pieces = zip(*(part.chunk(optim.accumulation) for part in here), strict=True)
        for index, piece in enumerate(pieces):
            last = index == optim.accumulation - 1
            # processes exchange gradients once, after the last piece
            with nullcontext() if last else accelerator.no_sync(self._module):
                # the mean over this piece's labels counts by their share of the batch's; the processes'
                # gradients are averaged. A piece without labels has loss 0 and takes part
                share = accelerator.num_processes * max(1, int(asked[index].sum()))
                with self._stopping_at(self.step + 1), _renewing(self.model, index == 0):
                    loss = self._loss(*piece) / (num_labels / share)
                accelerator.backward(loss)
            losses.append(loss.detach())
        if optim.clip is not None:
            accelerator.clip_grad_norm_(self.model.parameters(), optim.clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._unseen.append(torch.stack(losses).sum())
        self.step += 1
        on_cpu_alone = accelerator.device.type == "cpu" and accelerator.num_processes == 1
        if on_cpu_alone or self.step % loop.log_every == 0:
            self._read_losses()
        self.seconds += time.perf_counter() - began

    def look(self) -> None:
        """Bring `last_loss` up to date; the wait for the device counts as training.

        Raises:
            UserError: a loss since the last look is not finite: names the first such step.
        """
        began = time.perf_counter()
        self._read_losses()
        self.seconds += time.perf_counter() - began

    @property
    def is_asked_at(self) -> bool:
        """Whether eval_at names the present step, and nothing was found at it yet."""
        asked = self.experiment.loop.eval_at or ()
        return self.step in asked and f"seconds_{self.step}_steps" not in self.at_steps

    def evaluate(self, extent: Extent) -> dict[str, float]:
        """The source's metrics, the work shared among the processes; see `Source.evaluate`."""
        accelerator = self.accelerator

        def add_up(sums: Tensor) -> Tensor:
            # accelerate's reduce is typed for nests of tensors
            total: Any = accelerator.reduce(sums, reduction="sum")
            return total

        def measured(model: AnyModel, extent: Extent) -> dict[str, float]:
            return self.source.evaluate(
                model,
                seed=self.experiment.loop.seed,
                extent=extent,
                share=(accelerator.process_index, accelerator.num_processes),
                add_up=add_up,
            )

        with self._stopping_at(self.step):
            metrics = measured(self.model, extent)
            for depth in (self.experiment.loop.eval_depths or ()) if extent == "final" else ():
                try:
                    deep = measured(at_depth(self.model, depth), "part")
                except NotFinite:  # so deep it has no such number; what it has at its own depth stays
                    continue
                metrics |= {f"{name}_{depth}_deep": value for name, value in deep.items()}
        headline = metrics[self.source.headline]
        self.curve.append((self.step, headline))
        if self.is_asked_at:
            found = {self.source.headline: headline, "seconds": self.seconds}
            self.at_steps |= {f"{name}_{self.step}_steps": value for name, value in found.items()}
        return metrics

    def save(self, out: Path) -> None:
        """Write a checkpoint; every process takes part, the main one writes.

        Raises:
            UserError: loss, weights or optimiser are not finite, or the checkpoint cannot be written.
        """
        self.look()
        finite = torch.stack([parameter.isfinite().all() for parameter in self.model.parameters()]).all()
        if not finite:
            raise self._not_finite("a weight", self.step)
        moments = [state[name] for state in self._raw_optimizer.state.values() for name in MOMENTS]
        # none yet where fp16's loss scaling has left out every step so far
        if moments and not torch.stack([moment.isfinite().all() for moment in moments]).all():
            raise self._not_finite("a value of the optimiser", self.step)
        rng: dict[str, Any] = {
            name: self.accelerator.gather(state[None].to(self.accelerator.device))
            for name, state in rng_tensors(self.accelerator.device).items()
        }
        scaler = self.accelerator.scaler
        if self.accelerator.is_main_process:
            self.saved = save_checkpoint(
                out,
                model=self.model,
                optimizer=optimizer_tensors(self._raw_optimizer, self.model),
                rng={name: states.cpu() for name, states in rng.items()},
                trainer=TrainerRecord(
                    step=self.step,
                    experiment=self.experiment,
                    data=data_record(self.data),
                    seconds=self.seconds,
                    loss=self.last_loss,
                    curve=tuple(self.curve),
                    at_steps=dict(self.at_steps),
                    scaler=None if scaler is None else scaler.state_dict(),
                ),
                keep=self.experiment.loop.keep_checkpoints,
            )
        self.accelerator.wait_for_everyone()

    @property
    def tokens_per_step(self) -> int:
        return self.experiment.loop.batch_size * self.experiment.loop.seq_len

    def _read_losses(self) -> None:
        if not self._unseen:
            return
        first = self.step - len(self._unseen) + 1
        # the mean over the processes: NaN in one is NaN in all, and all stop together
        reduced: Any = self.accelerator.reduce(torch.stack(self._unseen), reduction="mean")
        losses = reduced.tolist()
        self._unseen.clear()
        for step, loss in enumerate(losses, start=first):
            if not -float("inf") < loss < float("inf"):
                raise self._not_finite(f"the loss ({loss})", step)
        self.last_loss = losses[-1]

    @contextmanager
    def _stopping_at(self, step: int) -> Iterator[None]:
        """A UserError that leaves the block tells the step: a model refuses NaN before there is a loss.

        Of a number that is not finite it is the run's end; of all else, such as memory, nobody knows that.
        """
        try:
            yield
        except UserError as error:
            words = f"training stopped at step {step}: {error}"
            if isinstance(error, NotFinite):
                raise TrainingStopped(f"{words}; {self._kept}; {self._too_much}") from error
            raise UserError(f"{words}; {self._kept}") from error

    def _not_finite(self, what: str, step: int) -> TrainingStopped:
        words = f"{what} is no longer a finite number at step {step}"
        return TrainingStopped(f"training stopped: {words}; {self._kept}; {self._too_much}")

    @property
    def _too_much(self) -> str:
        """What to do about numbers that are no longer finite."""
        clipped = "" if self.experiment.optim.clip is not None else ", or gradients clipped (--clip 1)"
        return f"a new run with a learning rate below {self.experiment.optim.lr:g} may help{clipped}"

    @property
    def _kept(self) -> str:
        return (
            "no checkpoint was written before" if self.saved is None else f"the last good one is {self.saved}"
        )


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """A UserError that leaves the block begins with the file that it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error

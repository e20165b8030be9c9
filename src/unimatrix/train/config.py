"""Everything a training run needs, as frozen values that go to JSON and back.

An experiment is one `Experiment`; its defaults are the paper's recipe (Table 1): 80 steps of AdamW at a
constant lr of 3e-4 on 16 windows of 128 bytes, dropout 0.1, float32. AdamW is `torch.optim.AdamW` with its
own defaults: one group, weight decay 0.01 on every parameter. Field names are unique across the nested
configs, so that a command line can offer each as a flat option.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from unimatrix.codec import decode, encode, is_utf8
from unimatrix.data import VOCAB_SIZE
from unimatrix.data.settings import check_positive, check_range, check_stride, check_types
from unimatrix.data.tasks import TaskConfig, TripleInteractionConfig, task_of
from unimatrix.data.tasks.triple_interaction import Symbols
from unimatrix.errors import UserError, UserTypeError, shown
from unimatrix.models import TASK_PRESETS, AnyModelConfig, ModelConfig, preset_config, settings_of
from unimatrix.models.upgrade import MAX_DEPTH

Schedule = Literal["constant", "cosine", "linear"]
Precision = Literal["fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
EvalSplit = Literal["valid", "test"]
TrackerName = Literal["tensorboard", "trackio", "wandb", "none"]

# of training itself: raised by hand when the same settings come to train, or to measure, other numbers
VERSION = 1

# also a folder's name, with the seed and more behind it; the usual limit of these is 255 bytes
_LONGEST_NAME = 200

CUSTOM = "custom"  # what goes by no preset's name

# what a choice of a model held until 0.1 beside the preset, dropout and positions: changes of it
_CHANGES_THEN = frozenset(
    {"d_model", "num_heads", "depth", "state_dim", "qkv_init", "temperature", "slots", "top_k", "pointer"}
    | {"write_gate", "write_gate_bias"}
)


# what a recipe says of any model, in fields of its own
BESIDE_CHANGES = ("dropout", "max_positions")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelChoice:
    """A preset by name (or a config of one's own), and what differs from it.

    Attributes:
        preset: a name that `unimatrix models` lists; without one the paper's Core. (The commands take
            `unimatrix`, by a recipe of its own, `unimatrix.train.recipe`.)
        config: a model's whole config in the preset's place, with its own dropout and positions; its
            vocabulary gives way to the data's.
        changes: settings by their paths (`unimatrix.models.settings`), values as JSON has them:
            {"d_model": 32, "parts.memory.num_slots": 16}.
        dropout: probability in [0, 1).
        max_positions: how many learned positions; None builds the model without positions, for any length.
    """

    preset: str = "unimatrix-core"
    config: ModelConfig | None = None
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    dropout: float = 0.1
    max_positions: int | None = 128

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "max_positions")
        check_range(self, "dropout", low=0.0, below=1.0)
        for name in BESIDE_CHANGES:
            if name in self.changes:
                raise UserError(f"changes: expected {name} beside them, got it among them")
        try:  # as JSON will give them back, whose writers sort: parts are added in the order of their names
            changes = json.loads(json.dumps(encode(self.changes), allow_nan=False, sort_keys=True))
        except (TypeError, ValueError, RecursionError):
            raise UserTypeError(
                f"changes: expected values as JSON has them, got {shown(self.changes)}"
            ) from None
        object.__setattr__(self, "changes", changes)
        if self.config is not None:
            object.__setattr__(self, "preset", CUSTOM)
            for field in dataclasses.fields(self):
                name, usual = field.name, field.default
                if name not in ("dropout", "max_positions"):
                    continue
                own, given = getattr(self.config, name), getattr(self, name)
                if given not in (own, usual):
                    raise UserError(f"{name}: expected {own}, as in the config beside it, got {given}")
                object.__setattr__(self, name, own)

    def resolved(self, vocab_size: int) -> AnyModelConfig:
        """The model's whole config.

        Raises:
            UserError: an unknown preset, or changes that it cannot have.
        """
        return preset_config(
            self.preset if self.config is None else self.config,
            **{
                "vocab_size": vocab_size,
                "dropout": self.dropout,
                "max_positions": self.max_positions,
                **self.changes,
            },
        )

    @staticmethod
    def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
        """A choice's JSON values in this version's form: what were fields until 0.1 are changes."""
        then = {name: value for name, value in values.items() if name in _CHANGES_THEN}
        now = {name: value for name, value in values.items() if name not in _CHANGES_THEN}
        changes, given = now.get("changes", {}), {n: value for n, value in then.items() if value is not None}
        return now | {"changes": given | dict(changes)} if given and isinstance(changes, Mapping) else now


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW and its schedule.

    Attributes:
        lr: the peak learning rate.
        weight_decay: decoupled decay, on every parameter.
        betas: AdamW's own.
        eps: AdamW's own.
        warmup_steps: the lr rises linearly over these steps, and only then follows the schedule.
        schedule: constant, or down to final_lr_share * lr at the last step by a half cosine or a line.
        final_lr_share: where the schedule ends, as a share of lr.
        clip: largest norm of the whole gradient; None does not clip.
        accumulation: in how many pieces a batch goes through the model; the gradient is that of the whole
            batch.
        precision: of the forward pass (autocast); weights and optimiser stay float32.
    """

    lr: float = 3e-4
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup_steps: int = 0
    schedule: Schedule = "constant"
    final_lr_share: float = 0.0
    clip: float | None = None
    accumulation: int = 1
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "lr", "eps", "clip", "accumulation")
        check_range(self, "weight_decay", low=0.0)
        check_range(self, "warmup_steps", low=0)
        check_range(self, "final_lr_share", low=0.0, below=math.nextafter(1.0, 2.0))
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise UserError(f"betas: expected two numbers in [0, 1), got {self.betas}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How long, on what, and what is written on the way.

    Attributes:
        steps: optimiser steps in all.
        batch_size: windows (or a task's sequences) per optimiser step, over all processes and accumulation
            pieces together.
        seq_len: bytes predicted per window, in training and in evaluation; a task's length.
        bos_share: of a text, the share of windows that begin with BOS, so that the model can start from
            nothing (an empty prompt); None for none, as in the paper.
        pack: a text's documents (the files of a folder) are kept apart: each begins with a BOS, which is read
            and not predicted, and no byte is predicted from another document, in training and in evaluation.
            A window's seq_len then counts these tokens too.
        seed: of the initial weights, the batches and the dropout.
        eval_every: steps between evaluations; None evaluates at the end only.
        eval_bytes: how much of the validation text those in between look at (None: all; the last one always
            all).
        eval_split: which part of the text is evaluated, valid or test: what was chosen by the one has not
            seen the other. All that is said here of the validation text then holds of the test text.
        eval_window: bytes of a window in a text's evaluation; None: seq_len. So that models which train on
            windows of different lengths are measured alike.
        eval_at: steps, ascending, after which the whole validation text is evaluated besides; what it gives
            stays in the run's metrics ("bpb_80_steps", "seconds_80_steps").
        eval_depths: how often the model's one shared layer is applied in further evaluations at the end, with
            the same weights (`unimatrix.evals.at_depth`): on eval_bytes of a text ("bpb_12_deep"), or on the
            task alone ("accuracy_12_deep").
        stream_bytes: how much of the validation text is read as one stream too, at the end, the state carried
            through (metrics "stream_bpb"; "stream_bpb_513" of the bytes that follow 513 to 1,024, and so on,
            of a model that has a part which reads on; "windows_bpb" of the same bytes in windows);
            None: none is. Of a model without positions.
        stream_window: after how many bytes of it attention and its like forget what they kept, see
            `unimatrix.evals.stream_bits`; None leaves the number to it.
        stream_stride: how far these windows are apart, a divisor of stream_window: below it they overlap, and
            behind the first one no byte follows fewer than stream_window - stream_stride bytes, where its
            document has so many before it. None: they lie side by side.
        save_every: steps between checkpoints; None saves at the end only.
        keep_checkpoints: how many of the last ones stay.
        log_every: steps between lines of the log, points of the curves and, on an accelerator, checks for
            NaN.
        device: auto takes the accelerator where there is one.
        tracker: where the curves go; trackio and wandb are packages that no extra brings.
        compile: trains through torch.compile.
    """

    steps: int = 80
    batch_size: int = 16
    seq_len: int = 128
    bos_share: float | None = None
    pack: bool = False
    seed: int = 7
    eval_every: int | None = None
    eval_bytes: int | None = None
    eval_split: EvalSplit = "valid"
    eval_window: int | None = None
    eval_at: tuple[int, ...] | None = None
    eval_depths: tuple[int, ...] | None = None
    stream_bytes: int | None = None
    stream_window: int | None = None
    stream_stride: int | None = None
    save_every: int | None = None
    keep_checkpoints: int = 2
    log_every: int = 10
    device: Device = "auto"
    tracker: TrackerName = "tensorboard"
    compile: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "steps", "batch_size", "seq_len", "eval_every", "eval_bytes", "save_every")
        check_positive(self, "keep_checkpoints", "log_every", "stream_bytes", "stream_window", "eval_window")
        if self.stream_window is not None and self.stream_bytes is None:
            raise UserError(f"stream_window: expected None without stream_bytes, got {self.stream_window}")
        if self.stream_stride is not None:
            if self.stream_window is None:
                raise UserError(
                    f"stream_stride: expected None without stream_window, got {self.stream_stride}"
                )
            check_stride("stream_stride", self.stream_stride, window=self.stream_window)
        if self.bos_share is not None and not 0.0 < self.bos_share <= 1.0:
            raise UserError(f"bos_share: expected above 0, at most 1, or None for none; got {self.bos_share}")
        if self.pack and self.bos_share is not None:
            raise UserError(
                f"bos_share: with pack every document begins with BOS; expected None, got {self.bos_share}"
            )
        if self.pack and self.seq_len < 2:
            raise UserError("seq_len: with pack expected at least 2, as a window of 1 may ask nothing, got 1")
        check_range(self, "seed", low=0, below=2**63)
        asked = self.eval_at or ()
        if list(asked) != sorted({step for step in asked if step > 0}):
            raise UserError(f"eval_at: expected ascending steps above 0, got {asked}")
        if asked and asked[-1] > self.steps:
            raise UserError(f"eval_at: expected no step after the last one, {self.steps}, got {asked[-1]}")
        depths = self.eval_depths or ()
        if list(depths) != sorted({depth for depth in depths if 0 < depth <= MAX_DEPTH}):
            raise UserError(f"eval_depths: expected ascending depths from 1 to {MAX_DEPTH:,}, got {depths}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """One run: a model, a text or a task, an optimiser and a loop.

    Attributes:
        name: what the run is called in results and on curves: a line of text.
        data: what `unimatrix.data.load_corpus` takes: auto, wikitext-2-raw, embedded, a file or a folder.
        task: train on this task instead of a text, which is then not looked at.
    """

    name: str = "unnamed"
    model: ModelChoice = dataclasses.field(default_factory=ModelChoice)
    data: str = "auto"
    task: TaskConfig | None = None
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_types(self)
        if not self.name.isprintable() or not 0 < len(self.name) <= _LONGEST_NAME:
            raise UserError(
                f"name: expected 1 to {_LONGEST_NAME} printable characters, got {shown(self.name)} "
                f"({len(self.name)} characters)"
            )
        if not is_utf8(self.data):
            # a resumed run finds its text by it, and JSON has no other letters
            raise UserError(f"data: expected a path in UTF-8, got {shown(self.data)}")
        if self.loop.batch_size % self.optim.accumulation:
            raise UserError(
                f"accumulation: expected a divisor of batch_size {self.loop.batch_size}, "
                f"got {self.optim.accumulation}"
            )
        limit = self.model.max_positions
        if limit is not None and self.loop.seq_len > limit:
            raise UserError(
                f"seq_len: expected at most max_positions {limit}, got {self.loop.seq_len}; "
                "raise max_positions too, or set it to None"
            )
        window = self.loop.eval_window
        if limit is not None and window is not None and window > limit:
            raise UserError(f"eval_window: expected at most max_positions {limit}, got {window}")
        if self.loop.stream_bytes is not None and limit is not None:
            raise UserError(
                f"stream_bytes: a stream has no end; expected max_positions None beside it, got {limit}"
            )
        if self.loop.eval_depths:
            self._check_shared()
        if self.task is not None:
            self._check_task(self.task)
        if self.model.preset in TASK_PRESETS:
            self._check_task_preset()

    def _check_shared(self) -> None:
        """Only a layer that is shared over depth can be applied more often."""
        config = self.model.resolved(VOCAB_SIZE if self.task is None else self.task.vocab_size)
        layers = len(config.layers) if isinstance(config, ModelConfig) else 0
        if layers != 1:
            raise UserError(
                f"eval_depths: expected a model of one layer shared over depth, got {self.model.preset} with "
                f"{layers or 'none of this library'}"
            )

    def _check_task(self, task: TaskConfig) -> None:
        if self.loop.seq_len != task.length:
            raise UserError(
                f"seq_len: expected the task's length {task.length}, got {self.loop.seq_len}; "
                "change length and seq_len together"
            )
        for name, without in (
            *(("eval_bytes", None), ("eval_window", None), ("stream_bytes", None), ("stream_window", None)),
            *(("stream_stride", None), ("bos_share", None), ("pack", False), ("eval_split", "valid")),
        ):
            value = getattr(self.loop, name)
            if value != without:
                raise UserError(f"{name}: a task has no text; expected {without}, got {value}")
        limit = self.model.max_positions
        for name, variant in task_of(task).variants(task).items():
            if limit is not None and variant.length > limit:
                raise UserError(
                    f"evaluation on {name.replace('_', ' ')}: expected a length of at most max_positions "
                    f"{limit}, got {variant.length}; raise max_positions too, or set it to None"
                )

    def _check_task_preset(self) -> None:
        """A model that is made for one task's symbols can answer nothing else."""
        needed, got = Symbols(), "a text" if self.task is None else self.task.kind
        if isinstance(self.task, TripleInteractionConfig):
            if self.task.symbols == needed:
                return
            got = f"num_values {self.task.num_values}, num_tag_symbols {self.task.num_tag_symbols}"
        raise UserError(
            f"preset: {self.model.preset} is made for the task {TripleInteractionConfig.kind} with "
            f"num_values {needed.num_values} and num_tag_symbols {needed.num_tag_symbols}, got {got}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of JSON values; `from_dict` gives back an equal experiment.

        A task carries its kind; without one there is no "task".
        """
        values = encode(self)
        if self.task is None:
            del values["task"]
        if self.model.config is None:
            del values["model"]["config"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Experiment":
        """The experiment of `to_dict`; a field that is not there keeps its default.

        Raises:
            UserError: an unknown field (names the near ones), or a value of the wrong type or range.
        """
        return decode(cls, values, where="experiment")


# what a resumed run may change: none of these touches the steps already made. `data` is held to the text's
# fingerprint instead of its path
FREE_AT_RESUME = frozenset(
    {"name", "data", "steps", "eval_every", "eval_bytes", "save_every", "keep_checkpoints", "log_every"}
    | {"stream_bytes", "stream_window", "stream_stride", "eval_window"}
    | {"device", "tracker", "eval_num_pairs", "eval_num_distractors", "eval_cells", "eval_sequences"}
    | {"eval_rebound", "eval_tokens", "eval_depths"}
)

HOW_MEASURED = frozenset({"eval_window", "eval_sequences", "eval_tokens"})


def first_difference(saved: Experiment, asked: Experiment) -> tuple[str, Any, Any] | None:
    """(field, saved value, asked value) of the first setting that a resumed run must not change; or None."""
    saved_kind, asked_kind = (None if one.task is None else one.task.kind for one in (saved, asked))
    if saved_kind != asked_kind:
        return "task", saved_kind, asked_kind
    saved_values, asked_values = _settings(saved), _settings(asked)
    # where more steps are made, more of them may be asked about
    until = [[step for step in one.loop.eval_at or () if step <= saved.loop.steps] for one in (saved, asked)]
    free = FREE_AT_RESUME | ({"eval_at"} if until[0] == until[1] else set())
    if until[0]:  # what was found at these steps stands beside what is found later, and is compared with it
        free -= HOW_MEASURED
    for field in {**saved_values, **asked_values}:
        was, now = saved_values.get(field), asked_values.get(field)
        if field not in free and was != now:
            return field, was, now
    return None


def _settings(experiment: Experiment) -> dict[str, Any]:
    """Every setting by its name; the whole model's by their paths, in whatever words it was chosen."""
    task, choice = experiment.task, experiment.model
    config = choice.resolved(VOCAB_SIZE if task is None else task.vocab_size)
    of_model = encode(settings_of(config) if isinstance(config, ModelConfig) else config)
    return {"preset": choice.preset} | of_model | _flat(experiment.to_dict() | {"model": {}})


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value) if isinstance(value, dict) else {name: value})
    return flat

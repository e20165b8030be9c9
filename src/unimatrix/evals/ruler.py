"""RULER: what a model answers to the tasks of unimatrix.data.tasks.ruler, and the official score of it.

A row is kept for each answer, as soon as it is given: who runs the same again goes on where it stopped.
B samples, T tokens of the longest prompt among them.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import GenerationConfig

from unimatrix.atomic import append_lines
from unimatrix.codec import decode, read_json_lines
from unimatrix.data.tasks.ruler import (
    RULER,
    VERSION,
    Haystack,
    Request,
    Sample,
    WrongLength,
    check_length,
    make_sample,
    wonderwords,
)
from unimatrix.errors import UserError, did_you_mean, shown
from unimatrix.evals.model import evaluating
from unimatrix.evals.provenance import provenance
from unimatrix.hf.any_model import CausalModel
from unimatrix.memory import check_fits, host_bytes
from unimatrix.ops import backends_of

NOISE = "noise"
_CONTROL = re.compile(r"[\x00-\x1f]")
_MOST_SAMPLES = 10_000
# at the least: ids and mask, as a tokenizer's lists and as tensors
_BYTES_OF_A_TOKEN = 4 * 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What is asked.

    Attributes:
        tasks: names of unimatrix.data.tasks.ruler.RULER.
        lengths: tokens of prompt and answer together.
        samples: of each task at each length.
        seed: of the samples.
        haystack: a text to hide needles in where the official suite takes essays; without it noise.
    """

    tasks: tuple[str, ...] = tuple(RULER)
    lengths: tuple[int, ...] = (1024, 2048, 4096)
    samples: int = 50
    seed: int = 42
    haystack: Haystack | None = None

    def __post_init__(self) -> None:
        for name in self.tasks:
            if name not in RULER:
                raise UserError(f"tasks: unknown task {shown(name)}; {did_you_mean(name, RULER)}")
        for name in ("tasks", "lengths"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise UserError(f"{name}: expected one or more, each once, got {shown(values)}")
        for name, number, most in (
            *(("lengths", length, 2**31) for length in self.lengths),
            ("samples", self.samples, _MOST_SAMPLES),
        ):
            if not 0 < number <= most:
                raise UserError(f"{name}: expected more than 0 and at most {most:,}, got {shown(number)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A task at a length: how many samples it has, or, where it has none, why.

    A sample is written when it is asked for: all of them, at 128,000 tokens, would be gigabytes.
    """

    task: str
    seed: int
    request: Request
    samples: int = 0
    refused: WrongLength | None = None

    @property
    def length(self) -> int:
        return self.request.length

    def sample(self, index: int) -> Sample:
        return make_sample(self.task, seed=self.seed, index=index, request=self.request)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """An answer and its score: a line of the file of rows.

    score: the percentage of `answers` that the prediction holds. sample: the sample's index. haystack: NOISE,
    or the sha256 of the text that needles were hidden in; words: of the lists that words came from; None of
    tasks without. model_sha256: of the model's files. dtype: of its weights. version: of the tasks.
    provenance: commit, versions, machine, device, date; backend: what computed the model's own ops.
    """

    model: str
    model_sha256: str
    task: str
    length: int
    sample: int
    seed: int
    score: float
    prediction: str
    answers: tuple[str, ...]
    prompt_tokens: int
    answer_tokens: int
    size: int
    prompt_sha256: str
    haystack: str | None
    words: str | None
    dtype: str
    device: str
    backend: str
    version: int
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        """Raise a UserError unless the score is that of the prediction."""
        if not self.answers:
            raise UserError("answers: expected one or more, got none")
        if self.score != (expected := score(self.prediction, self.answers)):
            raise UserError(f"score: expected {expected:g}, the prediction's, got {self.score:g}")

    @property
    def identity(self) -> tuple[Any, ...]:
        """Two rows with one identity are the same answer: one model's, to one prompt, on one kind of device.

        A prompt is known by itself: whatever it comes to be written otherwise for, it is asked anew.
        """
        asked = (self.task, self.length, self.sample, self.prompt_sha256, self.answer_tokens)
        return (self.model_sha256, *asked, self.dtype, self.device)


def plan(causal: CausalModel, settings: Settings) -> list[Cell]:
    """Every task at every length, in the model's own tokens.

    Raises:
        UserError: a length beyond the model's positions, or beyond the memory.
        MissingPackage: a task takes words, and wonderwords is not installed.
    """
    limit = causal.max_positions
    for length in settings.lengths:
        if limit is not None and length > limit:
            raise UserError(f"lengths: expected at most the model's {limit:,} positions, got {length:,}")
        check_fits(_BYTES_OF_A_TOKEN * length, what=f"lengths: {length:,} tokens", there=host_bytes())
    words = wonderwords() if any(RULER[name].takes_words for name in settings.tasks) else None
    count, tokenizer = partial(_count, causal.tokenizer), causal.tokenizer
    added = len(_ids(tokenizer, "a")) - count("a")
    cells = []
    for name in settings.tasks:
        for length in settings.lengths:
            request = Request(
                length=length, count=count, added=added, words=words, haystack=settings.haystack
            )
            cell = partial(Cell, task=name, seed=settings.seed, request=request)
            try:
                check_length(name, number=settings.samples, seed=settings.seed, request=request)
                cells.append(cell(samples=settings.samples))
            except WrongLength as refused:
                cells.append(cell(refused=refused))
    return cells


def run_ruler(
    causal: CausalModel,
    cells: Sequence[Cell],
    settings: Settings,
    *,
    path: Path,
    name: str,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> list[Row]:
    """The rows of these samples, in their order: those of the file, and those that were missing there.

    Args:
        cells: what `plan` made of the settings.
        path: the file of rows; each batch is appended as soon as it is answered.
        name: of the model, as rows have it.
        batch_size: samples at a time; it changes the speed, and else nothing but rounding: a model that does
            not heed a mask, such as RWKV in transformers, answers one at a time.
        progress: called with how many more samples are done.
    Raises:
        UserError: the file holds something else, or the model gives no numbers.
        OSError: the file cannot be written.
    """
    if not 0 < batch_size <= _MOST_SAMPLES:
        raise UserError(f"batch_size: expected more than 0 and at most {_MOST_SAMPLES:,}, got {batch_size}")
    where_from = provenance(str(causal.model.device))
    where_from["versions"]["transformers"] = transformers.__version__
    about = {
        "model": name,
        "model_sha256": causal.sha256(),
        "seed": settings.seed,
        "dtype": str(causal.model.dtype).removeprefix("torch."),
        "device": causal.model.device.type,
        "version": VERSION,
        "provenance": where_from,
    }
    known = {row.identity: row for row in read_rows(path)}
    together = batch_size if batch_size == 1 or heeds_masks(causal) else 1
    found: list[Row] = []
    for cell in cells:
        rows: dict[int, Row] = {}
        told = 0
        missing: list[tuple[Row, Sample]] = []
        for index in range(cell.samples):
            sample = cell.sample(index)
            row = _row(cell, index, sample, settings, about)
            # an answer that may be longer than another has no room behind the longest prompt
            if missing and sample.answer_tokens != missing[0][1].answer_tokens:
                rows |= _answered(causal, missing, path)
            if row.identity in known:
                rows[index] = known[row.identity]
            else:
                missing.append((row, sample))
            if len(missing) == together or (missing and index + 1 == cell.samples):
                rows |= _answered(causal, missing, path)
            if progress is not None:
                progress(len(rows) - told)
            told = len(rows)
        found += [rows[index] for index in sorted(rows)]
    return found


def _answered(causal: CausalModel, asked: list[tuple[Row, Sample]], path: Path) -> dict[int, Row]:
    """The rows with the model's answers, by sample, once they are in the file; nothing is left to ask."""
    predictions = predict(causal, [sample for _, sample in asked])
    backend = _backend(causal.model)
    given = [
        dataclasses.replace(row, prediction=prediction, score=score(prediction, row.answers), backend=backend)
        for (row, _), prediction in zip(asked, predictions, strict=True)
    ]
    append_lines(path, b"".join(map(_line, given)))
    asked.clear()
    return {row.sample: row for row in given}


def heeds_masks(causal: CausalModel) -> bool:
    """Whether padding on the left leaves what the model says as it is: some read it whatever a mask says."""
    model = causal.model
    ids = torch.tensor([_ids(causal.tokenizer, "The needle lies in the hay.")])
    padded = torch.cat([torch.zeros_like(ids), ids], dim=1)
    scores = []
    with evaluating(model):
        for tokens in (ids, padded):
            mask = torch.ones_like(tokens)
            mask[:, : tokens.shape[1] - ids.shape[1]] = 0
            first = model.generate(
                input_ids=tokens.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=GenerationConfig(
                    max_new_tokens=1,
                    do_sample=False,
                    pad_token_id=0,
                    return_dict_in_generate=True,
                    output_logits=True,
                ),
            )
            scores.append(first.logits[0].double())
    alone, beside = scores
    # rounding moves scores far less, what was read far more
    rounding = torch.finfo(model.dtype).eps ** 0.5
    return bool((alone - beside).abs().max() <= rounding * alone.std())


def predict(causal: CausalModel, samples: Sequence[Sample]) -> list[str]:
    """What the model writes behind each prompt: the likeliest token each time, as many as an answer may have.

    Samples are padded on the left, and each is answered as if it were alone.
    """
    model, tokenizer = causal.model, causal.tokenizer
    rows = [_ids(tokenizer, sample.prompt) for sample in samples]
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.int64)  # [B, T]
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = torch.tensor(row)
        mask[number, width - len(row) :] = 1
    before = model.generation_config
    ends = before.eos_token_id if isinstance(before.eos_token_id, list) else [before.eos_token_id]
    ends = [token for token in ends if token is not None and token >= 0]  # -1 is none too
    # the model's own wishes (a temperature, a penalty on repetition) are left out, but where an answer ends
    # behind an end stands what every model has, and nobody reads: some know their own padding's id no more
    model.generation_config = GenerationConfig(eos_token_id=ends or None, pad_token_id=0, do_sample=False)
    try:
        with evaluating(model):
            written = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max(sample.answer_tokens for sample in samples),
            )
    finally:
        model.generation_config = before
    predictions = []
    for answer, sample in zip(written[:, width:].tolist(), samples, strict=True):
        answer = list(takewhile(lambda token: token not in ends, answer[: sample.answer_tokens]))
        predictions.append(tokenizer.decode(answer, skip_special_tokens=True))
    return predictions


def score(prediction: str, answers: Sequence[str]) -> float:
    """The percentage of the answers that stand in the prediction, upper and lower case alike."""
    said = _CONTROL.sub("\n", prediction.strip()).lower()
    return 100.0 * sum(answer.lower() in said for answer in answers) / len(answers)


def string_match_all(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """The official suite's score of a task: the mean of `score` over the samples, not rounded."""
    scores = [score(*pair) for pair in zip(predictions, answers, strict=True)]
    return sum(scores) / len(scores)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, oldest first; none if there is no file, and not one that was cut short.

    Raises:
        UserError: a whole line is no row (names the file, the line and the field).
    """
    for where, values in read_json_lines(path):
        yield decode(Row, values, where=where)


def _row(cell: Cell, index: int, sample: Sample, settings: Settings, about: dict[str, Any]) -> Row:
    """The row of a sample, without an answer yet."""
    task = RULER[cell.task]
    haystack = None if task.hidden_in is None else NOISE
    if settings.haystack is not None and task.hidden_in == "essays":
        haystack = settings.haystack.sha256
    return Row(
        task=cell.task,
        length=cell.length,
        sample=index,
        score=0.0,
        prediction="",
        answers=sample.answers,
        prompt_tokens=sample.prompt_tokens,
        answer_tokens=sample.answer_tokens,
        size=sample.size,
        prompt_sha256=sha256(sample.prompt.encode()).hexdigest(),
        haystack=haystack,
        words=_words_sha256() if task.takes_words else None,
        backend="",
        **about,
    )


@cache
def _words_sha256() -> str:
    return wonderwords().sha256


def _line(row: Row) -> bytes:
    return json.dumps(dataclasses.asdict(row), sort_keys=True, allow_nan=False).encode() + b"\n"


def _backend(model: Any) -> str:
    """What computed a model's own ops; "torch" where it has none."""
    return ", ".join(sorted(set(backends_of(model).values()))) or "torch"


def _ids(tokenizer: Any, text: str) -> list[int]:
    """A prompt's tokens, with what the tokenizer puts around a text."""
    return tokenizer(text, verbose=False)["input_ids"]


def _count(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

"""Loss and accuracy of a model on a task: fresh sequences, looked at only where something is asked.

B sequences per forward pass, T their length.
"""

import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unimatrix.data.tasks import IGNORE, Batch, TaskConfig, task_of
from unimatrix.errors import NotFinite, UserError, shown
from unimatrix.evals.model import check_finite, device_of, evaluating, max_positions, sum_dtype, vocab_size
from unimatrix.models import LanguageModel, Mamba2

# sequences of one draw, whatever number of them goes through the model at a time
DRAWN_TOGETHER = 256
# and not more of them than hold so many tokens: what lies between layers grows with them
_MOST_TOKENS = 2**17
# of a model that is read in pieces here, as it does not do so itself
_PIECE = 2048


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TaskScore:
    """How well a task is answered.

    loss: nats per answer. accuracy: percent of the answers whose likeliest token is the right one.
    num_sequences: how many sequences were looked at.
    """

    loss: float
    accuracy: float
    num_sequences: int

    @classmethod
    def from_sums(cls, sums: Tensor, num_sequences: int) -> "TaskScore":
        """The score of what `task_sums` added up, over one share or all of them.

        Raises:
            NotFinite: the loss is not finite, as of a model whose weights are not.
        """
        nats, right, answers = sums.tolist()
        check_finite(nats / answers, unit="answer")
        return cls(loss=nats / answers, accuracy=100.0 * right / answers, num_sequences=num_sequences)


def task_score(
    model: nn.Module,
    config: TaskConfig,
    *,
    num_sequences: int,
    seed: int,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> TaskScore:
    """The model's score on the first `num_sequences` of the task's evaluation stream.

    The model is put into evaluation mode and back; sums are kept in float64, where the model is.

    Args:
        model: `model(input_ids [B, T]) -> (logits [B, T, V], state)`.
        seed: of the sequences; no training batch of any seed holds them but by chance.
        batch_size: sequences per forward pass; it changes nothing but rounding.
        progress: called with how many were looked at, after each pass.
    Raises:
        UserError: a size that is not positive, sequences longer than the model's positions or with tokens
            that its vocabulary lacks.
    """
    sums = task_sums(
        model, config, num_sequences=num_sequences, seed=seed, batch_size=batch_size, progress=progress
    )
    return TaskScore.from_sums(sums, num_sequences)


def task_sums(
    model: nn.Module,
    config: TaskConfig,
    *,
    num_sequences: int,
    seed: int,
    batch_size: int,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """What one process's share of the sequences adds up to; summed over all shares, that of all of them.

    Args:
        share: (r, n): the r-th of n shares, every n-th batch. Others as for `task_score`.
    Returns:
        [3] on the model's device: nats, right answers, answers; float64 (float32 on MPS, which has no
        float64). NaN where the model refuses numbers that it has come to.
    """
    _check(model, config, num_sequences=num_sequences, batch_size=batch_size)
    where = device_of(model)
    sums = torch.zeros(3, dtype=sum_dtype(where), device=where)
    with evaluating(model):
        batches = _batches(config, num_sequences=num_sequences, seed=seed, batch_size=batch_size)
        for index, batch in enumerate(batches):
            if index % share[1] != share[0]:
                continue
            labels = batch.labels.to(where)
            asked = labels != IGNORE
            try:
                logits = _logits(model, batch.input_ids.to(where), asked).float()  # [answers, V]
            except NotFinite:
                # told by the sums, of which every process hears: none waits for another's
                return torch.full_like(sums, torch.nan)
            answers = labels[asked]
            sums[0] += F.cross_entropy(logits, answers, reduction="none").to(sums.dtype).sum()
            sums[1] += (logits.argmax(-1) == answers).sum()
            sums[2] += len(answers)
            if progress is not None:
                progress(len(labels))
    return sums


def _logits(model: nn.Module, input_ids: Tensor, asked: Tensor) -> Tensor:
    """[answers, V]: what the model says at the asked positions; ours and Mamba-2 compute no others."""
    if isinstance(model, LanguageModel):
        return model(input_ids, logits_at=asked)[0]
    if not isinstance(model, Mamba2):
        return model(input_ids)[0][asked]
    found, state = [], None
    for ids, here in zip(input_ids.split(_PIECE, dim=1), asked.split(_PIECE, dim=1), strict=True):
        logits, state = model(ids, state, logits_at=here)
        found.append(logits)
    if len(found) == 1:
        return found[0]
    # piece after piece to row after row
    return torch.cat(found)[_by_row(asked)]


def _by_row(asked: Tensor) -> Tensor:
    """Where each answer of `asked` [B, T], row after row, stands among those of its pieces one by one."""
    rows, places = asked.nonzero(as_tuple=True)
    order = torch.argsort((places // _PIECE) * len(asked) + rows, stable=True)
    return torch.argsort(order)


def _batches(config: TaskConfig, *, num_sequences: int, seed: int, batch_size: int) -> Iterator[Batch]:
    make = task_of(config).make
    for step, first in enumerate(range(0, num_sequences, DRAWN_TOGETHER)):
        rows = min(DRAWN_TOGETHER, num_sequences - first)
        drawn = make(config, seed=seed, step=step, batch_size=rows, stream="eval")
        together = max(1, min(batch_size, _MOST_TOKENS // max(1, config.length)))
        pieces = zip(drawn.input_ids.split(together), drawn.labels.split(together), strict=True)
        for input_ids, labels in pieces:
            yield Batch(input_ids, labels)


def _check(model: nn.Module, config: TaskConfig, *, num_sequences: int, batch_size: int) -> None:
    for name, value in (("num_sequences", num_sequences), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"{name}: expected at least 1, got {value}")
        if value >= 2**63:
            raise UserError(f"{name}: expected a number below 2^63, got {shown(value)}")
    limit, known = max_positions(model), vocab_size(model)
    if limit is not None and config.length > limit:
        raise UserError(f"length: expected at most the model's {limit} positions, got {config.length}")
    if known is not None and config.vocab_size > known:
        raise UserError(f"vocab_size: expected at most the model's {known} tokens, got {config.vocab_size}")

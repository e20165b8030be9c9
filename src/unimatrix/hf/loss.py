"""The loss of next-token prediction as transformers' models give it, and which labels count in it.

Labels come as the input ids themselves; the label that position t predicts is the one at t + 1. It counts
where it is not -100, and where both positions hold tokens of one document: padding predicts nothing, and is
not predicted, and no document predicts the next one.

Letters: B batch, T time, V vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from unimatrix.errors import UserError, UserTypeError
from unimatrix.ops.shapes import TokenMask

IGNORED = -100


def next_token_loss(
    loss_function: Callable[..., Tensor],
    logits: Tensor,
    labels: Tensor | None,
    *,
    shift_labels: Tensor | None = None,
    mask: TokenMask | None = None,
    starts: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
    training: bool = False,
) -> Tensor:
    """The mean loss of the labels that count, or this call's share in the mean over a whole step.

    Args:
        loss_function: transformers' `ForCausalLMLoss` or what the user put in its place.
        logits: [B, T, V].
        labels: [B, T] int64, the input ids with -100 where nothing is to be predicted.
        shift_labels: [B, T] int64, the labels as the positions predict them, if already shifted; they are
            taken instead.
        mask: [B, T] bool, False at padding.
        starts: [B, T] bool, True where a document begins.
        num_items_in_batch: labels in the whole step, of which this is a part, as the Trainer counts them:
            those that padding or another document would predict among them. What they add to the count is
            taken out of this call's share, so that for a step of one call the loss is the mean, however its
            rows are padded and packed.
    Returns:
        a float32 scalar.
    Raises:
        UserError: labels of another shape, or out of [0, V) without being -100.
    """
    vocab_size = logits.shape[-1]
    for name, given in (("labels", labels), ("shift_labels", shift_labels)):
        if given is not None:
            _check(name, given, logits, vocab_size, training=training)
    if shift_labels is not None:
        asked = targets = shift_labels
    else:
        assert labels is not None
        asked = targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    if mask is not None:
        predicted = F.pad(mask[:, 1:], (0, 1), value=True)
        targets = targets.masked_fill(~(mask & predicted).to(targets.device), IGNORED)
    if starts is not None:
        targets = targets.masked_fill(F.pad(starts[:, 1:], (0, 1)).to(targets.device), IGNORED)
    if num_items_in_batch is not None and targets is not asked:
        num_asked, num_counted = ((some != IGNORED).sum() for some in (asked, targets))
        if isinstance(num_items_in_batch, Tensor):
            num_items_in_batch = num_items_in_batch.to(num_asked.device)
        num_items_in_batch = num_items_in_batch * num_counted / num_asked.clamp(min=1)
        # nothing counts: the share is 0, not 0 / 0
        num_items_in_batch = torch.where(num_counted > 0, num_items_in_batch, 1.0)
    return loss_function(
        logits=logits,
        labels=labels,
        vocab_size=vocab_size,
        num_items_in_batch=num_items_in_batch,
        shift_labels=targets,
    )


def _check(name: str, labels: Tensor, logits: Tensor, vocab_size: int, *, training: bool) -> None:
    if not isinstance(labels, Tensor):
        raise UserTypeError(f"{name}: expected a tensor of token ids, got {type(labels).__name__}")
    if labels.dtype != torch.int64:
        raise UserTypeError(f"{name}: expected int64, got {str(labels.dtype).removeprefix('torch.')}")
    if labels.shape != logits.shape[:2]:
        raise UserError(f"{name}: expected shape {list(logits.shape[:2])}, got {list(labels.shape)}")
    if labels.is_meta and not logits.is_meta:
        raise UserError(f"{name}: expected labels with data, got some on the device meta")
    # as with ids, where a look at the values is free
    if (
        torch.compiler.is_compiling()
        or (training and labels.device.type != "cpu")
        or labels.numel() == 0
        or labels.is_meta
    ):
        return
    wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= vocab_size))]
    if wrong.numel():
        raise UserError(
            f"{name}: expected token ids from 0 to {vocab_size - 1}, or {IGNORED}, got {int(wrong[0])}"
        )

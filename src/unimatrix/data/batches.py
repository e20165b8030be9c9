"""Training batches as a pure function of (seed, step): a run resumed at step n replays nothing.

B batch rows, T = seq_len; a row has T + 1 tokens, inputs and targets being its first and last T.
"""

import numpy as np
import torch

from unimatrix.data.streams import bit_generator
from unimatrix.data.tokenizer import BOS
from unimatrix.errors import UserError
from unimatrix.memory import check_fits, host_bytes


def random_windows(
    data: np.ndarray, *, seed: int, step: int, batch_size: int, seq_len: int, bos_share: float = 0.0
) -> torch.LongTensor:
    """Windows of the text at positions drawn uniformly, with replacement.

    Of those that bos_share chooses the last byte gives way to a BOS before the first. They begin anywhere in
    the text, as all do: a corpus does not know where its documents begin, and BOS says that nothing is known
    of what came before. Which ones is drawn apart from the positions, which stay what they are without it.

    The draw depends on (seed, step) and on len(data) alone: no global generator is read or moved.

    Args:
        data: [N] uint8, the training text.
        seed, step: at least 0 and below 2^64; every pair is its own stream.
        batch_size, seq_len: B and T.
        bos_share: in [0, 1], the probability of a BOS.
    Returns:
        [B, T + 1] int64 on the CPU.
    Raises:
        UserError: the text is shorter than one window of T + 1 bytes, or a size is not positive.
    """
    check_one_window(data, seq_len=seq_len)
    if batch_size < 1:
        raise UserError(f"batch_size: expected at least 1, got {batch_size}")
    # where each byte is, and as tokens
    check_fits(
        batch_size * (seq_len + 1) * 8 * 2,
        what=f"batch_size {batch_size:,}, seq_len {seq_len:,}",
        there=host_bytes(),
    )
    # raw 64-bit draws: numpy promises the stream of a bit generator for good, that of `integers` it does not.
    # the remainder favours some positions by less than N / 2^64
    draws = bit_generator("windows", seed=seed, step=step).random_raw(batch_size)
    starts = (draws % np.uint64(len(data) - seq_len)).astype(np.int64)
    rows = data[starts[:, None] + np.arange(seq_len + 1)].astype(np.int64)  # [B, T + 1]
    if bos_share > 0.0:
        chances = bit_generator("starts", seed=seed, step=step).random_raw(batch_size) >> np.uint64(11)
        begins = chances < bos_share * 2.0**53  # [B]
        rows[begins, 1:] = rows[begins, :-1]
        rows[begins, 0] = BOS
    return torch.from_numpy(rows)  # pyright: ignore[reportReturnType]


def check_one_window(data: np.ndarray, *, seq_len: int, name: str = "the text") -> None:
    """Raises UserError unless `data` holds one window of seq_len + 1 bytes."""
    if seq_len < 1:
        raise UserError(f"seq_len: expected at least 1, got {seq_len}")
    if len(data) < seq_len + 1:
        raise UserError(
            f"{name}: expected at least {seq_len + 1:,} bytes, one window of seq_len {seq_len} and the byte "
            f"that follows it; got {len(data):,}"
        )

"""A mixer of one row after another, held to itself: in pieces, with padding and documents anywhere."""

from collections.abc import Sequence

import torch
from tolerances import assert_close
from torch import Tensor, nn


def check_pieces_padding_and_documents(mixer: nn.Module, x: Tensor, cuts: Sequence[int]) -> None:
    """Pieces of x [B, T, D] equal the whole, and of each row the last text equals itself alone."""
    batch, length, _ = x.shape
    mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(3)) > 0.3
    starts = torch.rand(batch, length, generator=torch.Generator().manual_seed(4)) > 0.85
    whole, last = mixer(x, mask=mask, starts=starts)
    pieces, state = [], None
    for start, stop in zip((0, *cuts), (*cuts, length), strict=True):
        here = slice(start, stop)
        y, state = mixer(x[:, here], state, mask=mask[:, here], starts=starts[:, here])
        pieces.append(y)
    assert_close(torch.cat(pieces, 1)[mask], whole[mask], "output")
    for mine, theirs in zip(state, last, strict=True):  # type: ignore[arg-type]
        assert_close(mine, theirs, "state")
    for row in range(batch):
        begin = int(starts[row].nonzero()[-1])
        real = mask[row, begin:]
        alone, end = mixer(x[row : row + 1, begin:][:, real])
        assert_close(whole[row, begin:][real], alone[0], "output")
        for mine, theirs in zip(last, end, strict=True):
            assert_close(mine[row], theirs[0], "state")

"""Token-conditioned modulation of the channels."""

from torch import nn

from unimatrix.ops.shapes import Stream, TokenIds


class DeepEmbed(nn.Module):
    """A small embedding of the token scales the channels: x * (1 + W e(token)).

    Table V x rank and Linear(rank, D) without bias. At initialisation the scale is 1 to within a permille.
    """

    def __init__(self, vocab_size: int, rank: int, d_model: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, rank)
        self.expand = nn.Linear(rank, d_model, bias=False)

    def forward(self, input_ids: TokenIds) -> Stream:
        """The factor [B, T, D] for input_ids [B, T]."""
        return 1.0 + self.expand(self.table(input_ids))

"""Words that an index over tokens has to be right on: repetitive ones, random ones, text.

Letters: n tokens of a word.
"""

import torch
from torch import Tensor

N = 300


def fibonacci(n: int) -> list[int]:
    word, after = [0], [0, 1]
    while len(word) < n:
        word, after = after, after + word
    return word[:n]


def drawn(symbols: int, n: int = N, rows: int = 2, seed: int = 0) -> Tensor:
    return torch.randint(0, symbols, (rows, n), generator=torch.Generator().manual_seed(seed))


TEXT = ("the cat sat on the mat; the dog sat on the cat. " * 3 + "A dog, a cat and a mat: the end. " * 5)[:N]
INPUTS = {
    "one symbol": torch.zeros(1, N, dtype=torch.int64),
    "one symbol, then another": torch.tensor([[0] * (N - 5) + [1, 0, 0, 1, 0]]),
    "fibonacci": torch.tensor([fibonacci(N)]),
    "thue-morse": torch.tensor([[i.bit_count() % 2 for i in range(N)]]),
    "text": torch.tensor([list(TEXT.encode())]),
    "all different": torch.arange(N)[None],
    "large ids": drawn(3) + (2**31 - 4),
    **{f"random over {symbols:,}": drawn(symbols) for symbols in (2, 4, 259, 8_192, 50_257)},
}

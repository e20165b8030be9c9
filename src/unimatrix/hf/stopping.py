"""Stop strings over bytes: generation ends with the byte that completes one.

transformers looks each token up as text; a byte that is part of a longer character is none, and it would miss
every string with such a character.
"""

import torch
from torch import Tensor
from transformers import StoppingCriteria

from unimatrix.hf.tokenizer import ByteTokenizer


class StopBytes(StoppingCriteria):
    """Ends a row once its last tokens are the bytes of a stop string, those of the prompt among them.

    Args:
        stop_strings: one or several, none empty (`unimatrix.hf.settings` looks at them).
    """

    def __init__(self, tokenizer: ByteTokenizer, stop_strings: str | list[str]) -> None:
        strings = [stop_strings] if isinstance(stop_strings, str) else stop_strings
        self._endings = [torch.tensor(tokenizer.encode_bytes(string)) for string in strings]

    def __call__(  # type: ignore[reportIncompatibleMethodOverride]
        self, input_ids: Tensor, scores: Tensor, **kwargs: object
    ) -> Tensor:
        done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for ending in self._endings:
            if input_ids.shape[1] >= len(ending):
                done |= (input_ids[:, -len(ending) :] == ending.to(input_ids.device)).all(1)
        return done

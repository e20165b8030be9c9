"""A text that a model reads and writes on, a piece at a time, and keeps: what `unimatrix generate` stands on.

Letters: B batch, V vocabulary.
"""

import codecs
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from unimatrix.data.streams import torch_seed
from unimatrix.data.tokenizer import BOS, EOS
from unimatrix.errors import UserError, UserTypeError, shown
from unimatrix.hf.modeling import UniMatrixForCausalLM
from unimatrix.hf.numbers import check_logits, check_plain
from unimatrix.hf.saved_state import load_state, save_state
from unimatrix.hf.tokenizer import ByteTokenizer
from unimatrix.models.language_model import STREAM_PIECE

# below it the softmax of any logits that differ in float32 is 0 and 1, and dividing by it overflows
COLDEST = 1e-30
# tokens read in one call where each looks at all before it: what lies between two layers grows with both
LOOK_BACK_PIECE = 1024


class Reader:
    """A text so far, as a model holds it: read more of it, have it continued, keep it in a file.

    Memory is that of the model's state and of one piece, however long the text. The model must be in
    evaluation mode (`load` sees to that).
    """

    def __init__(self, model: UniMatrixForCausalLM, tokenizer: ByteTokenizer) -> None:
        """A text without a beginning yet: BOS, if nothing comes before what is to be written."""
        if not hasattr(model, "language_model"):
            raise UserTypeError(f"model: expected a UniMatrixForCausalLM, got {shown(model)}")
        if not isinstance(tokenizer, ByteTokenizer):
            raise UserTypeError(f"tokenizer: expected a ByteTokenizer, got {shown(tokenizer)}")
        self._file: str | Path | None = None  # that it was loaded from
        self.num_tokens = 0  # read and written, BOS among them
        self._model: Any = model
        self._tokenizer = tokenizer
        self._state: Any = None
        self._logits: Tensor | None = None  # [1, V] after all that the state has read
        self._unread: list[int] = []  # what the state has not read yet
        config = model.language_model.config
        self.max_positions = config.max_positions
        self._piece = STREAM_PIECE if getattr(config, "read_in_pieces", True) else LOOK_BACK_PIECE

    @classmethod
    def load(cls, path: str | Path, model: UniMatrixForCausalLM, tokenizer: ByteTokenizer) -> "Reader":
        """The text that `save` kept, to be read and written on.

        Raises:
            UserError: no such file, damaged, or of another model (see `load_state`).
        """
        reader = cls(model, tokenizer)
        reader._state, reader._logits = load_state(path, reader._model.language_model, batch_size=1)
        reader.num_tokens, reader._file = int(reader._state.position), path
        return reader

    def save(self, path: str | Path) -> None:
        """Write the state after all that was read and written, see `save_state`.

        Raises:
            UserError: nothing was read yet, or the file cannot be written.
        """
        self._catch_up()
        if self._state is None:
            raise UserError(f"{path}: expected a text that was read, got none yet")
        save_state(self._state, path, self._model.language_model, logits=self._logits)

    def read(self, text: str | bytes) -> None:
        """Read on.

        Raises:
            UserError: more than the model's positions, or the logits hold NaN.
        """
        ids = self._ids(text)
        end = self.num_tokens + len(ids)
        if self.max_positions is not None and end > self.max_positions:
            raise UserError(
                f"text of {end:,} tokens: more than max_positions = {self.max_positions}; a model built with"
                " max_positions=None has no limit"
            )
        self._unread += ids
        self.num_tokens = end
        self._catch_up()

    def write(
        self,
        prompt: str | bytes = "",
        *,
        max_new_tokens: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Read a prompt behind what was read and continue it; arguments, text and errors as of `stream`.

        The prompt joins the text now; it is fed when the first piece is asked for, or more is read.
        """
        if not isinstance(prompt, str | bytes):
            raise UserTypeError(f"prompt: expected a text or bytes, got {shown(prompt)}")
        if temperature is None:
            raise UserTypeError("temperature: expected a number, got None")
        check_plain("temperature", temperature, float)
        check_plain("top_p", top_p, float)
        for name, number in (("max_new_tokens", max_new_tokens), ("top_k", top_k), ("seed", seed)):
            check_plain(name, number, int)
        if max_new_tokens is not None and max_new_tokens < 1:
            raise UserError(f"max_new_tokens: expected at least 1, got {max_new_tokens}")
        choose = _chooser(temperature, top_k, top_p, seed, self._model.device)
        ids = self._ids(prompt)
        if not ids and not self.num_tokens:
            ids = [BOS]
        if not ids and not self._unread and self._logits is None:
            raise UserError("prompt: expected a text, as the state was kept without the logits behind it")
        end, limit = self.num_tokens + len(ids), self.max_positions
        if limit is not None:
            if end + (max_new_tokens or 1) > limit:
                raise UserError(
                    f"prompt of {end} tokens + max_new_tokens = {max_new_tokens or 1}: more than"
                    f" max_positions = {limit}; a model built with max_positions=None has no limit"
                )
            max_new_tokens = limit - end if max_new_tokens is None else max_new_tokens
        self._unread += ids
        self.num_tokens = end
        return _text_pieces(self._tokens(choose), max_new_tokens)

    def room(self) -> int | None:
        """How many bytes of text can still be read; None is any number."""
        if self.max_positions is None:
            return None
        return self.max_positions - self.num_tokens - len(self._ids(b""))

    def room_behind(self, prompt: str | bytes) -> int | None:
        """How many more tokens the model's positions leave room for behind a prompt; None is any number."""
        if self.max_positions is None:
            return None
        # BOS, where nothing else begins the text
        return self.max_positions - self.num_tokens - max(len(self._ids(prompt)), not self.num_tokens)

    def _ids(self, text: str | bytes) -> list[int]:
        """Its tokens, behind BOS where the text begins and the tokenizer puts one there."""
        ids = self._tokenizer.encode_bytes(text)
        return [BOS, *ids] if self._tokenizer.prepend_bos and not self.num_tokens else ids

    def _tokens(self, choose: Callable[[Tensor], Tensor]) -> Iterator[int]:
        """The tokens that follow; each is read when the next is asked for."""
        while True:
            self._catch_up()
            assert self._logits is not None
            token = int(choose(self._logits.float()))
            if token != EOS:  # which ends what is written, and is no part of it
                self._unread.append(token)
                self.num_tokens += 1
            yield token

    def _catch_up(self) -> None:
        """Read what was not."""
        while self._unread:
            fed = torch.tensor([self._unread[: self._piece]], device=self._model.device)
            try:
                with torch.no_grad():
                    logits, state = self._model.language_model(fed, self._state, logits_at=1)
                    check_logits(self._model, logits[:, -1])
            except UserError as error:
                if self._file is None:
                    raise
                # a file's numbers are finite, and may yet lead to none
                raise UserError(f"{self._file}: {error}") from error
            self._state, self._logits = state, logits[:, -1]
            del self._unread[: self._piece]


def stream(
    model: UniMatrixForCausalLM,
    tokenizer: ByteTokenizer,
    prompt: str | bytes,
    *,
    max_new_tokens: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> Iterator[str]:
    """Continue a prompt, yielding text as soon as its bytes make whole characters.

    The prompt is read once; each further token costs one step. Generation ends at EOS, after
    `max_new_tokens`, or where the model's positions end; without any of these it never does. Bytes that are
    not UTF-8 come out as U+FFFD, special tokens as nothing. The model must be in evaluation mode (`load` sees
    to that). A `Reader` does the same in several turns.

    Args:
        prompt: text or raw bytes; if empty, BOS is what the model continues.
        max_new_tokens: None means until EOS or the last position.
        temperature: the logits are divided by it; 0 takes the likeliest token every time.
        top_k, top_p: sample among the k likeliest, or the likeliest that together reach probability p.
        seed: of a generator of its own; None draws from torch's global one.
    Returns:
        an iterator of non-empty pieces; all errors but NaN are raised before the first one.
    Raises:
        UserError: a setting out of range, prompt and new tokens do not fit the model's positions, or the
            logits hold NaN.
    """
    return Reader(model, tokenizer).write(
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )


def _text_pieces(tokens: Iterator[int], max_new_tokens: int | None) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    num_new = 0
    while max_new_tokens is None or num_new < max_new_tokens:
        token = next(tokens)
        num_new += 1
        if token == EOS:
            break
        piece = decoder.decode(bytes([token])) if token < 256 else ""
        if piece:
            yield piece
    rest = decoder.decode(b"", final=True)
    if rest:
        yield rest


def _chooser(
    temperature: float, top_k: int | None, top_p: float | None, seed: int | None, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Logits [B, V] to tokens [B, 1], in the same steps as transformers' `generate`."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UserError(f"temperature: expected 0 or a positive number, got {temperature}")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k: expected at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p: expected 0 < top_p <= 1, got {top_p}")
    if seed is not None and not 0 <= seed < 2**64:
        raise UserError(f"seed: expected at least 0 and below 2^64, got {seed}")
    if temperature < COLDEST:
        return lambda logits: logits.argmax(-1, keepdim=True)

    warpers = LogitsProcessorList()
    if temperature != 1:
        warpers.append(TemperatureLogitsWarper(float(temperature)))
    if top_k is not None:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    generator = (
        None if seed is None else torch.Generator(device).manual_seed(torch_seed("sampling", seed=seed))
    )
    no_ids = torch.empty(1, 0, dtype=torch.long, device=device)  # these warpers look at the scores alone

    def sample(logits: Tensor) -> Tensor:
        probabilities = warpers(no_ids, logits).softmax(-1)  # type: ignore[arg-type]
        return torch.multinomial(probabilities, num_samples=1, generator=generator)

    return sample

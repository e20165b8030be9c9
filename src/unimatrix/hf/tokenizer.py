"""Bytes as tokens, as a Hugging Face tokenizer: what the hub, `generate`, Trainer and lm-eval expect.

Ids 0..255 are the bytes themselves, then BOS, EOS and PAD (`unimatrix.data.tokenizer` has the numbers).
Three decisions, each made so that text survives the round trip exactly:

- Text is not searched for special tokens: "<|bos|>" inside a string is seven bytes of text, not BOS.
  Nobody can smuggle a control token in through user text, and any text decodes to itself. Whoever
  means BOS writes its id (or asks for it with `prepend_bos=True`). A program that ends its texts with
  "<|eos|>" and means EOS (TRL) needs `tokenizer.split_special_tokens = False`, which no file can set;
  one call asks for it by an argument of this name.
- Nothing is added by default: `tokenizer(text).input_ids` are the text's UTF-8 bytes and no more.
- Bytes that are not UTF-8 come back as U+FFFD, so that what is decoded can always be printed. With
  `errors="surrogateescape"` they come back as U+DC80..U+DCFF, which encode to the same bytes again;
  `encode_bytes` and `decode_bytes` need no text at all.
"""

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import AddedToken, PreTrainedTokenizer
from transformers.utils import logging

from unimatrix.codec import fits
from unimatrix.data.tokenizer import BOS, EOS, PAD, VOCAB_SIZE, decode
from unimatrix.errors import UserError, UserTypeError, shown

logger: Any = logging.get_logger(__name__)  # transformers adds warning_once

BOS_TOKEN, EOS_TOKEN, PAD_TOKEN = "<|bos|>", "<|eos|>", "<|pad|>"
DECODING_ERRORS = ("replace", "surrogateescape", "ignore", "strict", "backslashreplace")
_CHOICES = {
    "padding": (True, False, "longest", "max_length", "do_not_pad"),
    "truncation": (True, False, "longest_first", "only_first", "only_second", "do_not_truncate"),
    "padding_side": ("left", "right"),
}


class ByteTokenizer(PreTrainedTokenizer):
    """The 259-token byte vocabulary: 256 bytes, BOS 256, EOS 257, PAD 258. It cannot be extended.

    Batches are padded on the left, as generation needs. The token of a byte is the character with the
    same number (`chr(byte)`); the three special tokens are the only ones longer than one character.

    Args:
        errors: what `decode` does with bytes that are not UTF-8, one of `DECODING_ERRORS`.
        prepend_bos: put BOS before every text when `add_special_tokens` is on (the default of a call).
    """

    vocab_files_names: dict[str, str] = {}  # noqa: RUF012 (transformers declares it as an instance attribute)
    model_input_names: list[str] = ["input_ids", "attention_mask"]  # noqa: RUF012
    padding_side = "left"

    def __init__(self, *, errors: str = "replace", prepend_bos: bool = False, **kwargs: Any) -> None:
        if errors not in DECODING_ERRORS:
            raise UserError(f"errors: expected one of {', '.join(DECODING_ERRORS)}, got {shown(errors)}")
        if not isinstance(prepend_bos, bool):
            raise UserTypeError(f"prepend_bos: expected true or false, got {shown(prepend_bos)}")
        for name in ("padding_side", "truncation_side"):
            if kwargs.get(name, "left") not in ("left", "right"):
                raise UserError(f"{name}: expected left or right, got {shown(kwargs[name])}")
        most = kwargs.get("model_max_length")
        if most is not None and (not fits(most, float) or most < 0):
            raise UserError(f"model_max_length: expected a number of tokens, got {shown(most)}")
        self.errors = errors
        self.prepend_bos = prepend_bos
        # the vocabulary is a constant, so what a saved tokenizer_config.json says about it is not read back;
        # which of its three special tokens has which role is
        for key in ("added_tokens_decoder", "split_special_tokens"):
            kwargs.pop(key, None)
        roles = {"bos_token": BOS_TOKEN, "eos_token": EOS_TOKEN, "pad_token": PAD_TOKEN}
        for role, usual in roles.items():
            given = kwargs.pop(role, None)
            text = given.get("content") if isinstance(given, Mapping) else given
            text = str(text) if isinstance(text, AddedToken) else text
            if text is not None and text not in roles.values():
                raise UserError(f"{role}: expected one of {', '.join(roles.values())}, got {shown(text)}")
            kwargs[role] = usual if text is None else text
        self._added_tokens_decoder = {
            token_id: AddedToken(text, special=True, normalized=False)
            for token_id, text in ((BOS, BOS_TOKEN), (EOS, EOS_TOKEN), (PAD, PAD_TOKEN))
        }
        super().__init__(
            errors=errors,
            prepend_bos=prepend_bos,
            split_special_tokens=True,
            special_tokens_pattern="bos" if prepend_bos else "none",
            **kwargs,
        )

    @property
    def vocab_size(self) -> int:
        return VOCAB_SIZE

    def get_vocab(self) -> dict[str, int]:
        return {chr(byte): byte for byte in range(256)} | {BOS_TOKEN: BOS, EOS_TOKEN: EOS, PAD_TOKEN: PAD}

    def encode_bytes(self, data: bytes | str) -> list[int]:
        """The ids of raw bytes, or of a text's UTF-8 bytes; nothing is added.

        Raises:
            UserError: the text holds a surrogate that stands for no byte (outside U+DC80..U+DCFF).
        """
        if not isinstance(data, bytes | str):
            raise UserTypeError(f"data: expected bytes or a text, got {shown(data)}")
        return list(data if isinstance(data, bytes) else _to_bytes(data))

    def __call__(
        self, text: Any = None, text_pair: Any = None, text_target: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        if text is None and text_target is None:
            raise UserTypeError("text: expected a text or a list of texts, got None")
        targets = {"text_target": text_target, "text_pair_target": kwargs.get("text_pair_target")}
        for name, given in ({"text": text, "text_pair": text_pair} | targets).items():
            if given is not None:
                _check_texts(name, given)
        for name in ("max_length", "stride", "pad_to_multiple_of"):
            number = kwargs.get(name)
            if number is not None and (not fits(number, int) or number < 0):
                raise UserError(f"{name}: expected a whole number of at least 0, got {shown(number)}")
        for name, known in _CHOICES.items():
            choice = kwargs.get(name)
            if choice is not None and choice not in known:
                raise UserError(f"{name}: expected one of {', '.join(map(str, known))}, got {shown(choice)}")
        if kwargs.get("return_offsets_mapping"):
            raise UserError(
                "return_offsets_mapping: expected False, as this tokenizer does not say which characters a"
                " token is"
            )
        if isinstance(text, list | tuple) and not text:
            raise UserError("text: expected a text or more, got an empty list")
        return super().__call__(text, text_pair, text_target, *args, **kwargs)  # type: ignore[reportArgumentType]

    def encode(self, text: Any, text_pair: Any = None, *args: Any, **kwargs: Any) -> list[int]:
        for name, given in (("text", text), ("text_pair", text_pair)):
            if given is not None or name == "text":
                _check_texts(name, given)
        return super().encode(text, text_pair, *args, **kwargs)

    def decode_bytes(self, token_ids: Iterable[int]) -> bytes:
        """The bytes that ids stand for, exactly; special tokens are left out."""
        return decode(_to_ids("token_ids", token_ids))

    def batch_decode(self, sequences: Any, *args: Any, **kwargs: Any) -> list[str]:
        single = not hasattr(sequences, "__len__") or getattr(sequences, "ndim", 1) == 0
        if isinstance(sequences, str | Mapping) or single:
            raise UserTypeError(f"sequences: expected a list of lists of ids, got {shown(sequences)}")
        return super().batch_decode(sequences, *args, **kwargs)

    def convert_ids_to_tokens(  # type: ignore[reportIncompatibleMethodOverride]
        self, ids: Any, skip_special_tokens: bool = False
    ) -> Any:
        found = _to_ids("ids", ids)
        one = not hasattr(ids, "__len__") and not isinstance(ids, Iterable)
        return super().convert_ids_to_tokens(found[0] if one else found, skip_special_tokens)

    def tokenize(self, text: str, *, split_special_tokens: bool | None = None, **_: Any) -> list[str]:
        """One character per byte; special-token text is text, unless split_special_tokens is False.

        Args:
            split_special_tokens: None is the tokenizer's own, True unless it was set.
        """
        if split_special_tokens is None:
            split_special_tokens = self.split_special_tokens
        if not isinstance(text, str):
            raise UserTypeError(f"text: expected a text, got {shown(text)}")
        if split_special_tokens:
            if text.endswith(EOS_TOKEN):
                logger.warning_once(
                    f"a text ends with {EOS_TOKEN!r}, which is text here and no end; where EOS is meant set"
                    " tokenizer.split_special_tokens = False"
                )
            return list(_to_bytes(text).decode("latin-1"))
        specials = (BOS_TOKEN, EOS_TOKEN, PAD_TOKEN)
        parts = re.split("(" + "|".join(map(re.escape, specials)) + ")", text)
        return [
            token
            for part in parts
            for token in ([part] if part in specials else _to_bytes(part).decode("latin-1"))
        ]

    def apply_chat_template(  # type: ignore[reportIncompatibleMethodOverride]
        self, *args: Any, return_assistant_tokens_mask: bool = False, **kwargs: Any
    ) -> Any:
        if return_assistant_tokens_mask:
            # transformers asks for the characters' places, which only its fast tokenizers know
            raise UserError(
                "return_assistant_tokens_mask: expected False, as this tokenizer does not say which"
                " characters a token is; prompt and completion in columns of their own give the same loss"
            )
        return super().apply_chat_template(*args, **kwargs)

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        # the base class looks tokens up one by one; a run of one-character tokens is a byte string already
        if not isinstance(tokens, str | list | tuple):
            raise UserTypeError(f"tokens: expected a token or a list of them, got {shown(tokens)}")
        one_by_one = [tokens] if isinstance(tokens, str) else tokens
        if not all(isinstance(token, str) for token in one_by_one):
            raise UserTypeError(f"tokens: expected texts, got {shown(tokens)}")
        if isinstance(tokens, list) and set(map(len, tokens)) == {1}:
            try:
                return list("".join(tokens).encode("latin-1"))
            except UnicodeEncodeError:
                pass  # a character that is no byte: the slow way below names it
        return super().convert_tokens_to_ids(tokens)  # pyright: ignore[reportArgumentType]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        if not isinstance(tokens, list | tuple):
            raise UserTypeError(f"tokens: expected a list of tokens, got {shown(tokens)}")
        return self._decode([self._convert_token_to_id_with_added_voc(token) for token in tokens])

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        return ()

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoTokenizer") -> None:
        """Does nothing: a saved folder says where its classes are (`unimatrix.hf.config`)."""

    def _convert_token_to_id(self, token: str) -> int:
        if isinstance(token, str) and len(token) == 1 and ord(token) < 256:
            return ord(token)
        raise UserError(f"token {shown(token)}: expected one character of U+0000..U+00FF or a special token")

    def _convert_id_to_token(self, index: int) -> str:
        if 0 <= index < 256:
            return chr(index)
        raise UserError(f"token id {index}: expected 0..{VOCAB_SIZE - 1}")

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        *,
        errors: str | None = None,
        **_: Any,
    ) -> str:
        # clean_up_tokenization_spaces is for word tokenizers; here it would alter text
        if errors is not None and errors not in DECODING_ERRORS:
            raise UserError(f"errors: expected one of {', '.join(DECODING_ERRORS)}, got {shown(errors)}")
        ids = _to_ids("token_ids", token_ids)
        if skip_special_tokens:
            data = decode(ids)
        else:
            text = {
                token_id: token.content.encode() for token_id, token in self._added_tokens_decoder.items()
            }
            specials = [position for position, token_id in enumerate(ids) if token_id in text]
            starts = [0, *(position + 1 for position in specials)]
            data = b"".join(
                decode(ids[start:position]) + text[ids[position]]
                for start, position in zip(starts, specials, strict=False)
            )
            data += decode(ids[starts[-1] :])
        return data.decode("utf-8", errors or self.errors)

    def add_special_tokens(
        self, special_tokens_dict: dict[str, Any], replace_extra_special_tokens: bool = True
    ) -> int:
        # the base class renames first and adds second; refuse before anything has changed
        if not isinstance(special_tokens_dict, Mapping):
            raise UserTypeError(
                f"special_tokens_dict: expected an object with fields, got {shown(special_tokens_dict)}"
            )
        for value in special_tokens_dict.values():
            self._check_known(value if isinstance(value, list | tuple) else [value])
        return super().add_special_tokens(special_tokens_dict, replace_extra_special_tokens)

    def _add_tokens(self, new_tokens: Sequence[str | AddedToken], special_tokens: bool = False) -> int:
        self._check_known(new_tokens)
        self._update_total_vocab_size()
        return 0

    def _check_known(self, tokens: Iterable[str | AddedToken]) -> None:
        vocabulary = self.get_vocab()
        for token in tokens:
            if not isinstance(token, str | AddedToken) or str(token) not in vocabulary:
                text = str(token) if isinstance(token, AddedToken) else token
                raise UserError(f"token {shown(text)}: the byte vocabulary is fixed at {VOCAB_SIZE} tokens")


def _check_texts(name: str, given: Any) -> None:
    """Raise a UserError for what is neither a text nor token ids nor a list of one of them, or of lists."""
    level = [given]
    while level:
        inner: list[Any] = []
        for one in level:
            if isinstance(one, list | tuple):
                kinds = {list if issubclass(kind, list | tuple) else kind for kind in set(map(type, one))}
                if len(kinds) > 1:
                    raise UserTypeError(f"{name}: expected texts or ids, not both, got {shown(one)}")
                if kinds == {int}:
                    wrong = next((token_id for token_id in one if not 0 <= token_id < VOCAB_SIZE), None)
                    if wrong is not None:
                        raise UserError(f"{name}: expected token ids 0..{VOCAB_SIZE - 1}, got {shown(wrong)}")
                elif kinds != {str}:
                    inner.extend(one)
            elif not isinstance(one, str):
                raise UserTypeError(f"{name}: expected a text or a list of texts, got {shown(given)}")
        level = inner


def _to_ids(name: str, given: Any) -> list[int]:
    """The ids in a list, a tensor or an array, or a single one."""
    try:
        ids = given.tolist() if hasattr(given, "tolist") else given
        ids = [ids] if isinstance(ids, int) else list(ids)
        if isinstance(given, str | Mapping) or bool in set(map(type, ids)):
            raise TypeError
        ids = [operator.index(token_id) for token_id in ids]
    except (TypeError, NotImplementedError):  # the second from a tensor without data
        raise UserTypeError(f"{name}: expected token ids, got {shown(given)}") from None
    for extreme in (min(ids, default=0), max(ids, default=0)):
        if not 0 <= extreme < VOCAB_SIZE:
            raise UserError(f"{name}: expected 0..{VOCAB_SIZE - 1}, got token id {shown(extreme)}")
    return ids


def _to_bytes(text: str) -> bytes:
    if not isinstance(text, str):
        raise UserTypeError(f"text: expected a text, got {shown(text)}")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        character = ord(text[error.start])
        raise UserError(
            f"text: character {error.start} is the lone surrogate U+{character:04X}, which stands for no byte"
        ) from error

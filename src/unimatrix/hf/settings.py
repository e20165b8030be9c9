"""What `generate` may be told, as an argument, in a GenerationConfig or in a generation_config.json.

transformers looks at few of these, and would complain about the others deep inside, in Python's words, or
take a top_p of 5 for none.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from unimatrix.codec import fits
from unimatrix.errors import UserError, UserTypeError, shown


class _Kind(NamedTuple):
    plain: type
    words: str
    holds: Callable[[Any], bool] = lambda _: True
    several: bool = False  # or a list of them


_COUNT = _Kind(int, "a whole number of at least 1", lambda number: number >= 1)
_NATURAL = _Kind(int, "a whole number of at least 0", lambda number: number >= 0)
_FLAG = _Kind(bool, "true or false")
_NUMBER = _Kind(float, "a number")
_FROM_0 = _Kind(float, "0 or a positive number", lambda number: number >= 0)
_ABOVE_0 = _Kind(float, "a positive number", lambda number: number > 0)
_SHARE = _Kind(float, "a number from 0 to 1", lambda share: 0 <= share <= 1)
_TOKEN = _Kind(int, "a token id", lambda token_id: token_id >= 0)
# transformers' word for none
_PAD = _Kind(int, "a token id, or -1 for none", lambda token_id: token_id >= -1)
_ENDS = _Kind(
    int, "a token id or a list of them, or -1 for none", lambda token_id: token_id >= -1, several=True
)
_TOKENS = _Kind(int, "a token id or a list of them", lambda token_id: token_id >= 0, several=True)
_TEXTS = _Kind(str, "texts of a character or more", lambda text: text != "", several=True)

_SETTINGS: dict[str, _Kind] = {
    **dict.fromkeys(("max_new_tokens", "max_length", "num_beams", "num_return_sequences"), _COUNT),
    **dict.fromkeys(("min_new_tokens", "min_length", "no_repeat_ngram_size", "top_k"), _NATURAL),
    **dict.fromkeys(("prefill_chunk_size", "prompt_lookup_num_tokens", "num_assistant_tokens"), _COUNT),
    **dict.fromkeys(("do_sample", "use_cache", "renormalize_logits", "remove_invalid_values"), _FLAG),
    **dict.fromkeys(("return_dict_in_generate", "output_scores", "output_logits"), _FLAG),
    **dict.fromkeys(("output_hidden_states", "output_attentions"), _FLAG),
    **dict.fromkeys(("length_penalty", "guidance_scale", "penalty_alpha"), _NUMBER),
    **dict.fromkeys(("top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h"), _SHARE),
    **dict.fromkeys(("max_time", "repetition_penalty"), _ABOVE_0),
    **dict.fromkeys(("bos_token_id", "forced_bos_token_id"), _TOKEN),
    **dict.fromkeys(("forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"), _TOKENS),
    "pad_token_id": _PAD,
    "eos_token_id": _ENDS,
    "stop_strings": _TEXTS,
    "temperature": _FROM_0,
}
_TOKEN_IDS = [name for name in _SETTINGS if name.endswith(("token_id", "suppress_tokens"))]


def check_settings(given: Mapping[str, Any], *, where: object = None, vocab_size: int | None = None) -> None:
    """Raise a UserError for a setting of another type, or out of its range; one that is None says nothing.

    Args:
        given: settings by name; names that are not known here are left to transformers.
        where: what a complaint begins with, a file.
        vocab_size: token ids must lie below it.
    """
    begin = "" if where is None else f"{where}: "
    if given.get("assistant_early_exit") is not None:
        raise UserError(
            f"{begin}assistant_early_exit: expected none, as the last layer alone leads to the head, got "
            f"{shown(given['assistant_early_exit'])}; an assistant_model or prompt_lookup_num_tokens drafts"
        )
    for name, (plain, words, holds, several) in _SETTINGS.items():
        value = given.get(name)
        if value is None or (isinstance(value, Tensor) and name in _TOKEN_IDS):
            continue  # transformers takes token ids as tensors too
        ones = value if several and isinstance(value, list | tuple) else [value]
        if not all(fits(one, plain) for one in ones):
            raise UserTypeError(f"{begin}{name}: expected {words}, got {shown(value)}")
        if not all(holds(one) for one in ones):
            raise UserError(f"{begin}{name}: expected {words}, got {shown(value)}")
        if vocab_size is not None and name in _TOKEN_IDS and any(one >= vocab_size for one in ones):
            raise UserError(f"{begin}{name}: expected token ids below {vocab_size}, got {shown(value)}")

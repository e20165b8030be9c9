"""What `generate` of transformers does differently for a model that carries a state and speaks in bytes."""

import copy
import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import GenerationMixin
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteriaList

from unimatrix.codec import shown
from unimatrix.errors import UserError, UserTypeError
from unimatrix.hf.cache import CACHE_NAME, CACHE_NAMES, UniMatrixCache, by_one_name
from unimatrix.hf.numbers import NumbersOnly, check_plain
from unimatrix.hf.stopping import StopBytes
from unimatrix.hf.tokenizer import ByteTokenizer

# what generate hands on to the model though it is none of its business
GENERATION_KWARGS = ("tokenizer", "assistant_tokenizer")
_Generation: Any = GenerationMixin  # its methods are typed for a protocol that its own models do not satisfy


# what transformers would complain about deep inside, in Python's words
_COUNTS = ("max_new_tokens", "max_length", "num_beams", "num_return_sequences")
_FLAGS = ("do_sample", "use_cache")


def _check_arguments(given: Mapping[str, Any]) -> None:
    """Raise a UserError for what cannot be generated from, or so."""
    for name in ("inputs", "input_ids", "attention_mask"):
        value = given.get(name)
        if value is not None and (not isinstance(value, Tensor) or value.dim() != 2 or not value.numel()):
            got = list(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise UserTypeError(f"{name}: expected a tensor [batch, time] with something in it, got {got}")
        if isinstance(value, Tensor) and value.is_meta:
            raise UserError(f"{name}: expected a tensor with values, got one on the meta device")
    for name in _COUNTS:
        value = given.get(name)
        # no length of its own is a wish; no number of beams is none
        if (value is not None or (name in given and "num" in name)) and (
            not isinstance(value, int) or isinstance(value, bool) or value < 1
        ):
            raise UserTypeError(f"{name}: expected a whole number of at least 1, got {shown(value)}")
    for name in _FLAGS:
        check_plain(name, given.get(name), bool)
    check_plain("top_k", given.get("top_k"), int)
    for name in ("temperature", "top_p"):
        check_plain(name, given.get(name), float)


class Decoding(GenerationMixin):
    """transformers' `generate` with a `UniMatrixCache` as the state."""

    @functools.wraps(_Generation.generate)
    def generate(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[reportIncompatibleMethodOverride]
        _check_arguments(dict(zip(("inputs",), args, strict=False)) | kwargs)
        return _Generation.generate(self, *args, **by_one_name(kwargs))

    # transformers reads the signature to learn which arguments there are
    @functools.wraps(_Generation.prepare_inputs_for_generation)
    def prepare_inputs_for_generation(  # type: ignore[reportIncompatibleMethodOverride]
        self, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        next_sequence_length = kwargs.get("next_sequence_length")
        if next_sequence_length is not None and next_sequence_length < 1:
            # transformers would slice [-0:] and feed all of it a second time
            raise UserError(
                "input_ids: expected at least one token more than the cache has read, got"
                f" {'as many' if next_sequence_length == 0 else f'{-next_sequence_length} fewer'}"
            )
        for name in GENERATION_KWARGS:
            kwargs.pop(name, None)
        inputs = _Generation.prepare_inputs_for_generation(self, *args, **kwargs)
        # PEFT looks for the older name alone, and finding no state it would feed its prompt at every step
        state = inputs.get(CACHE_NAME)
        return inputs if state is None else inputs | dict.fromkeys(CACHE_NAMES, state)

    def _get_stopping_criteria(
        self, generation_config: Any, *args: Any, tokenizer: Any = None, **kwargs: Any
    ) -> StoppingCriteriaList:
        stop_strings = generation_config.stop_strings
        if stop_strings is None or not isinstance(tokenizer, ByteTokenizer):
            return _Generation._get_stopping_criteria(
                self, generation_config, *args, tokenizer=tokenizer, **kwargs
            )
        without = copy.copy(generation_config)
        without.stop_strings = None
        criteria = _Generation._get_stopping_criteria(self, without, *args, **kwargs)
        criteria.append(StopBytes(tokenizer, stop_strings))
        return criteria

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        processors = _Generation._get_logits_processor(self, *args, **kwargs)
        processors.append(NumbersOnly(self))  # type: ignore[reportArgumentType]
        return processors

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    # transformers declares bool and returns nothing
    def _prepare_cache_for_generation(  # type: ignore[reportIncompatibleMethodOverride]
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any
    ) -> None:
        _Generation._prepare_cache_for_generation(self, generation_config, model_kwargs, *args)
        if generation_config.use_cache is not False and model_kwargs.get(CACHE_NAME) is None:
            model_kwargs[CACHE_NAME] = cache = UniMatrixCache()
            if getattr(generation_config, "is_assistant", False):
                cache.activate_past_recording()

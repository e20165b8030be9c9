"""What `generate` of transformers does differently for a model that carries a state and speaks in bytes."""

import copy
import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteriaList

from unimatrix.errors import UserError, UserTypeError, shown
from unimatrix.hf.cache import CACHE_NAME, Prepared, UniMatrixCache, by_one_name
from unimatrix.hf.numbers import NumbersOnly
from unimatrix.hf.settings import check_settings
from unimatrix.hf.stopping import StopBytes
from unimatrix.hf.tokenizer import ByteTokenizer

# what generate hands on to the model though it is none of its business
GENERATION_KWARGS = ("tokenizer", "assistant_tokenizer")
_Generation: Any = GenerationMixin  # its methods are typed for a protocol that its own models do not satisfy


_COUNTS = ("num_beams", "num_return_sequences")


def _check_arguments(given: Mapping[str, Any]) -> None:
    """Raise a UserError for what cannot be generated from, or so."""
    for name in ("inputs", "input_ids", "attention_mask"):
        value = given.get(name)
        if value is not None and (not isinstance(value, Tensor) or value.dim() != 2 or not len(value)):
            got = list(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise UserTypeError(f"{name}: expected a tensor [batch, time] of a row or more, got {got}")
        if isinstance(value, Tensor) and value.is_meta:
            raise UserError(f"{name}: expected a tensor with values, got one on the meta device")
    for name in _COUNTS:
        if name in given and given[name] is None:  # no length is a wish; no number of beams is none
            raise UserTypeError(f"{name}: expected a whole number of at least 1, got None")
    check_settings(given)


def _check_new(number: int | None) -> None:
    """Raise a UserError where a prompt has no token that its state has not read."""
    if number is not None and number < 1:
        # transformers would slice [-0:] and feed all of it a second time
        raise UserError(
            "input_ids: expected at least one token more than the cache has read, got"
            f" {'as many' if number == 0 else f'{-number} fewer'}"
        )


def _check_ends(name: str, mask: Tensor) -> None:
    """Raise a UserError where a row ends with padding, whose logits mean nothing: they would be followed."""
    padded = ~mask.bool()[:, -1:].all(1)
    if padded.any():
        raise UserError(
            f"{name}: expected padding on the left (tokenizer.padding_side), got row "
            f"{int(padded.nonzero()[0])} that ends with it"
        )


def _check_goes_on(cache: UniMatrixCache, mask: Any, config: Any, *, drafts: bool) -> None:
    """Raise a UserError where transformers would feed again, or otherwise, what the cache has read."""
    read = cache.get_seq_length()
    if drafts:
        raise UserError(
            "cache: expected an empty one beside prompt_lookup_num_tokens or assistant_model, with which "
            f"transformers feeds the whole prompt, got one that has read {read} tokens"
        )
    if config.use_cache is False:
        raise UserError(f"use_cache: expected True with a cache that has read {read} tokens, got False")
    position = cache.position
    if (
        isinstance(mask, Tensor)
        and position is not None
        and mask.shape[1] > read
        and len(mask) == len(position)
    ):
        said = mask[:, :read].sum(1)
        # of packed documents the position is that in the last one, and less
        short = said < position.to(said.device)
        if short.any():
            row = int(short.nonzero()[0])
            raise UserError(
                f"attention_mask: expected {int(position[row])} tokens among the first {read} of row {row}, "
                f"as the cache has read them, got {int(said[row])}; a row that ends before the others of its "
                "batch reads padding as text"
            )


class Decoding(GenerationMixin):
    """transformers' `generate` with a `UniMatrixCache` as the state."""

    @functools.wraps(_Generation.generate)
    def generate(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[reportIncompatibleMethodOverride]
        given = dict(zip(("inputs", "generation_config"), args, strict=False)) | kwargs
        _check_arguments(given)
        for settings in (given.get("generation_config"), self.generation_config):
            if not isinstance(settings, GenerationConfig | None):
                raise UserTypeError(f"generation_config: expected a GenerationConfig, got {shown(settings)}")
            if settings is not None:
                check_settings(vars(settings), where="generation_config")
        return _Generation.generate(self, *args, **by_one_name(kwargs))

    # transformers reads the signature to learn which arguments there are
    @functools.wraps(_Generation.prepare_inputs_for_generation)
    def prepare_inputs_for_generation(  # type: ignore[reportIncompatibleMethodOverride]
        self, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        _check_new(kwargs.get("next_sequence_length"))
        for name in GENERATION_KWARGS:
            kwargs.pop(name, None)
        packed = kwargs.get("position_ids") is not None
        # PEFT looks for the older name alone, and finding no state it would feed its prompt at every step;
        # under two names it would be two states to those who copy each argument, as transformers' exporters
        prepared = _Generation.prepare_inputs_for_generation(self, *args, **kwargs)
        if not packed:  # some releases make them here
            prepared.pop("position_ids", None)
        return Prepared(prepared)

    def _prefill(
        self, input_ids: Any, generation_config: Any, model_kwargs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """transformers' own, which slices a prompt in chunks itself."""
        cache, mask = model_kwargs.get(CACHE_NAME), model_kwargs.get("attention_mask")
        if cache is not None and generation_config.prefill_chunk_size is not None:
            of_mask = getattr(generation_config, "_mask_length", -1) if mask is None else mask.shape[1]
            if of_mask == input_ids.shape[1]:  # else these are the new tokens alone
                _check_new(input_ids.shape[1] - cache.get_seq_length())
        return _Generation._prefill(self, input_ids, generation_config, model_kwargs, *args, **kwargs)

    def _prepare_model_inputs(self, inputs: Any, bos_token_id: Any, model_kwargs: dict[str, Any]) -> Any:
        """transformers' own, and rows without a token start from BOS, as it does without any input_ids."""
        given = (inputs, model_kwargs.get("input_ids"), model_kwargs.get("inputs_embeds"))
        if bos_token_id is None and all(one is None for one in given):
            raise UserError("input_ids: expected some where there is no bos_token_id, got None")
        inputs, name, model_kwargs = _Generation._prepare_model_inputs(
            self, inputs, bos_token_id, model_kwargs
        )
        mask: Tensor | None = model_kwargs.get("attention_mask")
        if name == "input_ids" and inputs.shape[1] == 0:
            inputs = mask = torch.zeros(len(inputs), 1, dtype=torch.int64, device=inputs.device)
        empty = None if mask is None else ~mask.bool().any(1)
        if mask is not None and empty is not None and empty.any():
            if name != "input_ids" or bos_token_id is None or mask.shape != inputs.shape:
                raise UserError(
                    f"{name}: expected a token or more in every row, got none in row"
                    f" {int(empty.nonzero()[0])}{' and no bos_token_id' if bos_token_id is None else ''}"
                )
            inputs, mask = inputs.clone(), mask.clone()
            inputs[empty, -1], mask[empty, -1] = int(bos_token_id), 1
            model_kwargs["attention_mask"] = mask
        if mask is not None:
            _check_ends("attention_mask", mask)
        return inputs, name, model_kwargs

    def _prepare_attention_mask_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        mask = _Generation._prepare_attention_mask_for_generation(self, *args, **kwargs)
        empty = ~mask.bool().any(1)
        if mask.shape[1] and empty.any():
            raise UserError(
                f"input_ids: expected a token or more in every row, got padding alone in row"
                f" {int(empty.nonzero()[0])}; start it with BOS, or give the attention_mask"
            )
        # a row alone needs none: it may end with what a model chose, which an assistant goes on from
        if len(mask) > 1:
            _check_ends("input_ids", mask)
        return mask

    def _prepare_position_ids_for_generation(self, *args: Any, **kwargs: Any) -> None:
        """None: they would say, at every token, what the state and the mask say already."""

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
        drafts = bool(args) and args[0] == GenerationMode.ASSISTED_GENERATION
        if drafts and generation_config.stop_strings is not None:
            raise UserError(
                "stop_strings: expected none beside prompt_lookup_num_tokens or assistant_model, whose "
                f"drafts may go on behind one, got {shown(generation_config.stop_strings)}"
            )
        cache = model_kwargs.get(CACHE_NAME)
        if isinstance(cache, UniMatrixCache) and cache.get_seq_length() > 0:
            _check_goes_on(cache, model_kwargs.get("attention_mask"), generation_config, drafts=drafts)
        _Generation._prepare_cache_for_generation(self, generation_config, model_kwargs, *args)
        if generation_config.use_cache is not False and model_kwargs.get(CACHE_NAME) is None:
            model_kwargs[CACHE_NAME] = cache = UniMatrixCache()
            if getattr(generation_config, "is_assistant", False):
                cache.activate_past_recording()

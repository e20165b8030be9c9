"""The language model as transformers sees it: `generate`, Trainer, `save_pretrained`, `from_pretrained`.

A thin adapter. The mathematics is `unimatrix.models.LanguageModel` (or a peer, `Mamba2`), reachable as
`.language_model`; what is added here is the shape of transformers' interfaces. The model's state travels
through `generate` as a `UniMatrixCache`, so the prompt is read once and each further step feeds one token.

Letters: B batch, T time, V vocabulary, P tokens already in the state.
"""

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteriaList
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from unimatrix.errors import UserError, UserTypeError
from unimatrix.hf import packing
from unimatrix.hf.cache import CACHE_NAME, UniMatrixCache, UniMatrixOutput, by_one_name
from unimatrix.hf.config import UniMatrixConfig
from unimatrix.hf.loss import next_token_loss
from unimatrix.hf.numbers import NumbersOnly
from unimatrix.hf.stopping import StopBytes
from unimatrix.hf.tokenizer import ByteTokenizer
from unimatrix.models import LanguageModel, Mamba2, TextModel, text_model_from_config

# what generate hands on to the model though it is none of its business
GENERATION_KWARGS = ("tokenizer", "assistant_tokenizer")
LOSS_KWARGS = ("num_items_in_batch", "shift_labels")
# what torch.compile, checkpoint_wrapper, FSDP and DistributedDataParallel call the module inside them
WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "module"}
_Generation: Any = GenerationMixin  # its methods are typed for a protocol that its own models do not satisfy


class UniMatrixForCausalLM(PreTrainedModel, GenerationMixin):
    """`LanguageModel` behind transformers' causal-LM interface.

    `UniMatrixForCausalLM(config)` draws the same initial weights as `LanguageModel(config.to_model_config())`
    under the same seed. Its parameters are the language model's, under the prefix `language_model.`; the
    output head's weights are the embedding's, and are saved once.

    Args:
        config: what to build.
        language_model: use this model, which `config` describes, instead of building one; what
            `from_language_model` does.
    """

    config: UniMatrixConfig
    config_class = UniMatrixConfig
    _no_split_modules = ["LanguageModel"]  # noqa: RUF012 (transformers reads it off the class)
    _supports_context_parallel = False  # the state is not exchanged between ranks

    def __init__(self, config: UniMatrixConfig, language_model: TextModel | None = None) -> None:
        super().__init__(config)
        self.language_model = (
            text_model_from_config(config.to_model_config()) if language_model is None else language_model
        )
        if getattr(self.language_model, "head", None) is not None:
            self._tied_weights_keys = {"language_model.head.weight": "language_model.embedding.weight"}
        # the language model has drawn its weights; on the meta device they are still to come, from a file
        if not any(parameter.is_meta for parameter in self.parameters()):
            for module in self.modules():
                module._is_hf_initialized = True  # type: ignore[assignment]
        self.post_init()

    @classmethod
    def from_language_model(cls, language_model: TextModel) -> "UniMatrixForCausalLM":
        """Wrap a built model. The weights are shared, not copied; no random number is drawn.

        Of a model that torch.compile or DistributedDataParallel has wrapped it is the model inside; what is
        wrapped after this is saved under the same names as ever.
        """
        language_model = _unwrapped(language_model)
        model = cls(UniMatrixConfig.from_model_config(language_model.config), language_model)
        return model.train(language_model.training)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """transformers' own, except that the weights loaded are the model's own memory.

        transformers leaves them as views of the file, at addresses that are no multiple of a vector register:
        matrix products then round differently than in the model that was saved, and whoever overwrites
        the file changes the model.
        """
        with quiet_progress():
            loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.device.type == "cpu":
                tensor.data = tensor.data.clone()
        return loaded

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: UniMatrixCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: UniMatrixCache | None = None,
        **kwargs: Any,
    ) -> UniMatrixOutput:
        """Next-token logits, and the loss if labels are given.

        Args:
            input_ids: [B, T] int64, only the tokens that the state has not seen yet.
            attention_mask: [B, T] or [B, P + T], 0 or False at padding; only the last T columns are used, as
                the state knows about the others.
            cache, or past_key_values: the state that an earlier call returned; it is brought up to date in
                place.
            labels: [B, T] int64, the input ids themselves: they are shifted here. -100 does not count, nor
                does a label at padding or after padding (`next_token_loss`).
            use_cache: return the state; None means config.use_cache, and no in training.
            logits_to_keep: the logits of so many last positions only, or of these positions; 0 means all.
            kwargs: `num_items_in_batch` and `shift_labels` go to the loss; `position_ids` may say where each
                token stands if that is where it does stand; any other must be None or False.
        Returns:
            loss (scalar float32 or None), logits [B, T, V], cache (`UniMatrixCache` or None; it answers to
            past_key_values too).
        Raises:
            UserError: the mask does not fit the tokens, an argument that this model does not know, or a state
                that it does not keep (Mamba-2 in training mode).
        """
        for name, value in kwargs.items():
            if name not in (*LOSS_KWARGS, *packing.NAMES) and value is not None and value is not False:
                raise UserError(f"UniMatrixForCausalLM: unknown argument {name!r}")
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if past_key_values is not None:
            if cache is not None:
                raise UserError("cache: expected it by one name, got past_key_values too")
            cache = past_key_values
        if cache is not None and not isinstance(cache, UniMatrixCache):
            raise UserTypeError(f"cache: expected a UniMatrixCache, got a {type(cache).__name__}")
        if cache is None and use_cache:
            cache = UniMatrixCache()

        mask = _new_columns(attention_mask, input_ids, 0 if cache is None else cache.seq_length)
        start = None if cache is None else cache.position
        packing.check_one_text_a_row(kwargs, shape=input_ids.shape, mask=mask, start=start)
        logits, state, pieces = self._read(input_ids, mask, cache)
        if cache is not None and use_cache:
            if state is None:
                raise UserError("use_cache: Mamba-2 keeps no state in training mode, got use_cache=True")
            cache.put(state, input_ids.shape[1], pieces)

        loss = None
        if labels is not None or kwargs.get("shift_labels") is not None:
            loss_kwargs = {name: kwargs[name] for name in LOSS_KWARGS if name in kwargs}
            loss = next_token_loss(
                self.loss_function, logits, labels, mask=mask, training=self.training, **loss_kwargs
            )
        if isinstance(logits_to_keep, Tensor):
            logits = logits[:, logits_to_keep]
        elif logits_to_keep:
            logits = logits[:, -logits_to_keep:]
        return UniMatrixOutput(
            loss=loss,  # type: ignore[arg-type]
            logits=logits,
            **{CACHE_NAME: cache if use_cache else None},  # type: ignore[arg-type]
        )

    def _read(self, input_ids: Tensor, mask: Tensor | None, cache: UniMatrixCache | None) -> Any:
        """Logits [B, T, V] of the tokens, the state after them, and what the cache is to remember of them."""
        if cache is None:
            return *self.language_model(input_ids, mask=mask), []
        pieces, state, parts = cache.take(input_ids, mask), cache.state, []
        for place, piece in enumerate(pieces):
            pieces[place] = piece._replace(state=state)
            logits, state = self.language_model(piece.ids, state, mask=piece.mask)
            parts.append(logits)
        return torch.cat(parts, dim=1)[:, -input_ids.shape[1] :], state, pieces

    @functools.wraps(_Generation.generate)
    def generate(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[reportIncompatibleMethodOverride]
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
        return _Generation.prepare_inputs_for_generation(self, *args, **kwargs)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.language_model.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        assert isinstance(value, nn.Embedding)
        if isinstance(self.language_model, LanguageModel):
            self.language_model.embedding = value
        else:
            self.language_model.backbone.set_input_embeddings(value)

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        # the language model's state dict holds the matrix once, so that there is nothing to compare
        if isinstance(self.language_model, LanguageModel):
            self.language_model.tie_weights()

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any
    ) -> nn.Embedding:
        """Only the size it has: a preset may keep several tables by token id, and all would have to grow."""
        if new_num_tokens not in (None, self.config.vocab_size):
            raise UserError(
                f"resize_token_embeddings: the vocabulary has {self.config.vocab_size} tokens and cannot get"
                f" {new_num_tokens}; build a model with vocab_size={new_num_tokens} instead"
            )
        return self.language_model.embedding

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        state_dict = kwargs.get("state_dict") or self.state_dict()
        if any(WRAPPERS & set(name.split(".")) for name in state_dict):
            # a part has been compiled, or recomputes its activations: the weights are no others for that
            kwargs["state_dict"] = {
                ".".join(part for part in name.split(".") if part not in WRAPPERS): tensor
                for name, tensor in state_dict.items()
            }
        # a checkpoint is one small file: a progress bar would only break into the training loop's own
        with quiet_progress():
            super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Does nothing: a saved folder says where its classes are (`unimatrix.hf.config`)."""

    def _init_weights(self, module: nn.Module) -> None:
        # reached only in from_pretrained, for what the file did not hold: half a model is no model
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if not getattr(tensor, "_is_hf_initialized", False):
                prefix = next(prefix for prefix, known in self.named_modules() if known is module)
                raise UserError(f"checkpoint: no weights, or of the wrong shape, for {prefix}.{name}")

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
        processors.append(NumbersOnly(self))
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


def _unwrapped(language_model: Any) -> TextModel:
    model = language_model
    while not isinstance(model, LanguageModel | Mamba2):
        inside = [getattr(model, name) for name in WRAPPERS if hasattr(model, name)]
        if not inside:
            raise UserTypeError(
                f"language_model: expected a LanguageModel or a Mamba2, got a {type(language_model).__name__}"
            )
        model = inside[0]
    return model


def _new_columns(attention_mask: Tensor | None, input_ids: Tensor, num_past: int) -> Tensor | None:
    """The mask [B, T] bool of the tokens that are fed now, from a mask of these or of all tokens so far."""
    if attention_mask is None:
        return None
    batch_size, num_new = input_ids.shape
    if tuple(attention_mask.shape) not in ((batch_size, num_new), (batch_size, num_past + num_new)):
        raise UserError(
            f"attention_mask: expected shape {(batch_size, num_new)}"
            f" or {(batch_size, num_past + num_new)}, got {tuple(attention_mask.shape)}"
        )
    return attention_mask[:, attention_mask.shape[1] - num_new :].bool()


@contextmanager
def quiet_progress() -> Iterator[None]:
    """No progress bars from transformers inside the block."""
    previous = logging.set_tqdm_hook(lambda factory, args, kwargs: logging.EmptyTqdm(*args, **kwargs))
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)

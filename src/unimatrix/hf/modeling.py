"""The language model as transformers sees it: `generate`, Trainer, `save_pretrained`, `from_pretrained`.

A thin adapter. The mathematics is `unimatrix.models.LanguageModel` (or a peer, `Mamba2`), reachable as
`.language_model`; what is added here is the shape of transformers' interfaces. The model's state travels
through `generate` as a `UniMatrixCache`, so the prompt is read once and each further step feeds one token.

Letters: B batch, T time, D width, V vocabulary, P tokens already in the state.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from unimatrix.codec import fits
from unimatrix.errors import UserError, UserTypeError, shown
from unimatrix.hf import packing
from unimatrix.hf.cache import CACHE_NAME, Read, UniMatrixCache, UniMatrixModelOutput, UniMatrixOutput
from unimatrix.hf.config import UniMatrixConfig
from unimatrix.hf.decoding import Decoding
from unimatrix.hf.loss import next_token_loss
from unimatrix.hf.numbers import check_plain
from unimatrix.hf.older_files import check_no_older, in_this_versions_names
from unimatrix.mixers import HeadConfig, Part
from unimatrix.models import LanguageModel, Mamba2, TextModel, text_model_from_config
from unimatrix.models.documents import check_keeps_documents
from unimatrix.models.input_checks import has_values, may_look, positions_at

LOSS_KWARGS = ("num_items_in_batch", "shift_labels")
# what torch.compile, checkpoint_wrapper, FSDP and DistributedDataParallel call the module inside them
WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "module"}


class _Asked(NamedTuple):
    """The tokens of a forward pass, checked: what the state, the mask and the options mean for them."""

    given: Tensor  # [B, T] ids or [B, T, D] embeddings
    mask: Tensor | None  # [B, T] bool
    starts: Tensor | None  # [B, T] bool, where documents begin
    cache: UniMatrixCache | None
    use_cache: bool
    keep_streams: bool


class _Given(NamedTuple):
    """What the language model made of them."""

    logits: Tensor | None  # [B, K, V] at the kept positions
    hidden: Tensor | None  # [B, T, D]
    streams: tuple[Tensor, ...] | None


class UniMatrixPreTrainedModel(PreTrainedModel):
    """What the model with a head and the one without have in common.

    `cls(config)` draws the same initial weights as `LanguageModel(config.to_model_config())` under the same
    seed. The parameters are the language model's, under the prefix `language_model.`, with a head or without:
    a folder saved from the one loads as the other. The output head's weights are the embedding's, and are
    saved once.

    Args:
        config: what to build.
        language_model: use this model, which `config` describes, instead of building one; what
            `from_language_model` does.
    """

    config: UniMatrixConfig
    config_class = UniMatrixConfig
    base_model_prefix = "model"
    _no_split_modules = ["LanguageModel"]  # noqa: RUF012 (transformers reads it off the class)
    _supports_context_parallel = False  # the state is not exchanged between ranks
    supports_gradient_checkpointing = True

    def __init__(self, config: UniMatrixConfig, language_model: TextModel | None = None) -> None:
        super().__init__(config)
        self.language_model = (
            text_model_from_config(config.to_model_config()) if language_model is None else language_model
        )
        # the language model has drawn its weights; on the meta device they are still to come
        if not any(parameter.is_meta for parameter in self.parameters()):
            for module in self.modules():
                module._is_hf_initialized = True  # type: ignore[assignment]
        self._borrowing = language_model is not None
        self.post_init()
        self._borrowing = False

    def init_weights(self) -> None:
        """Draw what has not been drawn or loaded; of a model that this one is made around, nothing."""
        if not self._borrowing:
            super().init_weights()

    @classmethod
    def from_language_model(cls, language_model: TextModel) -> Any:
        """Wrap a built model. The weights are shared, not copied; no random number is drawn.

        Of a model that torch.compile or DistributedDataParallel has wrapped it is the model inside; what is
        wrapped after this is saved under the same names as ever.
        """
        language_model = unwrapped(language_model)
        model = cls(UniMatrixConfig.from_model_config(language_model.config), language_model)
        return model.train(language_model.training)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """transformers' own, except that the weights loaded are the model's own memory.

        transformers leaves them as views of the file, at addresses that are no multiple of a vector register:
        matrix products then round differently than in the model that was saved, and whoever overwrites
        the file changes the model. A folder of an earlier version's weights loads too.

        Raises:
            UserError: an earlier version's weights that do not lie in a folder, under their usual names.
        """
        name, wanted = pretrained_model_name_or_path, kwargs.pop("output_loading_info", False)
        with quiet_progress(), in_this_versions_names(name, kwargs.get("subfolder")) as place:
            loaded: Any = super().from_pretrained(place, *model_args, output_loading_info=True, **kwargs)
        model, info = loaded
        check_no_older(name, info["unexpected_keys"])
        model.name_or_path = model.config.name_or_path = str(name)
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.device.type == "cpu":
                tensor.data = tensor.data.clone()
        return (model, info) if wanted else model

    def _ask(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        caches: tuple[UniMatrixCache | None, UniMatrixCache | None],
        use_cache: bool | None,
        output_hidden_states: bool | None,
        kwargs: dict[str, Any],
    ) -> _Asked:
        """The arguments of a forward pass, checked.

        Raises:
            UserError: what `forward` says.
        """
        for name, value in kwargs.items():
            if name not in (*LOSS_KWARGS, *packing.NAMES) and value is not None and value is not False:
                why = "; there are no attention weights to give" if name == "output_attentions" else ""
                raise UserError(f"{type(self).__name__}: unknown argument {name!r}{why}")
        given = inputs_embeds if input_ids is None else input_ids
        if given is None or (input_ids is not None and inputs_embeds is not None):
            number = "neither" if given is None else "both"
            raise UserError(f"input_ids: expected either it or inputs_embeds, got {number}")
        if not isinstance(given, Tensor) or given.dim() < 2:
            shape = f"a {type(given).__name__}" if not isinstance(given, Tensor) else list(given.shape)
            name = "inputs_embeds" if input_ids is None else "input_ids"
            raise UserTypeError(f"{name}: expected a tensor [batch, time, ...], got {shape}")
        cache, other = caches if caches[0] is not None else (caches[1], None)
        if other is not None and other is not cache:
            raise UserError("cache: expected it by one name, got past_key_values too")
        if cache is not None and not isinstance(cache, UniMatrixCache):
            raise UserTypeError(f"cache: expected a UniMatrixCache, got a {type(cache).__name__}")
        if cache is not None and cache.batch_size not in (-1, len(given)):
            raise UserError(f"cache: expected the state of {len(given)} rows, got one of {cache.batch_size}")
        if cache is not None and cache.config not in (None, self.language_model.config):
            raise UserError(
                "cache: expected this model's state, got the state of one with another configuration"
            )
        check_plain("use_cache", use_cache, bool)
        check_plain("output_hidden_states", output_hidden_states, bool)
        if use_cache is None:
            # a cache that is given is to be filled: unmoved, the next piece would be read as the first
            use_cache = cache is not None or (self.config.use_cache and not self.training)
        if cache is None and use_cache:
            cache = UniMatrixCache()
        mask = _new_columns(attention_mask, given, 0 if cache is None else cache.seq_length)
        before = None if cache is None else cache.position
        starts = packing.starts_of(kwargs, given, mask=mask, before=before)
        if starts is not None:
            named = next(name for name in packing.NAMES if kwargs.get(name) is not None)
            check_keeps_documents(self.language_model, named)
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        return _Asked(given, mask, starts, cache, use_cache, output_hidden_states)

    def _read(self, asked: _Asked, *, head: bool, keep: int | Tensor | None = None) -> _Given:
        """Let the language model read the tokens, and bring the cache up to date.

        Args:
            head: whether logits are wanted, at the positions that `keep` names (`LanguageModel.logits`).
        """
        given, mask, starts, cache, use_cache, keep_streams = asked
        model: Any = self.language_model
        pieces = [Read(None, given, mask, starts)] if cache is None else cache.take(given, mask, starts)
        state = pieces[0].state
        whole = len(pieces) == 1 and pieces[0].length == given.shape[1]
        # tokens that were read before stand first, and nothing is wanted of them
        unwanted = sum(piece.length for piece in pieces) - given.shape[1]
        parts: list[_Given] = []
        for number, piece in enumerate(pieces):
            pieces[number] = piece._replace(state=state)
            fresh = max(0, piece.length - unwanted)
            unwanted = max(0, unwanted - piece.length)
            later = sum(more.length for more in pieces[number + 1 :])
            wanted = keep if isinstance(keep, int) else given.shape[1]
            at = keep if whole else min(fresh, max(0, wanted - later))
            ids, embeds = (piece.given, None) if piece.given.dim() == 2 else (None, piece.given)
            about: dict[str, Any] = {"mask": piece.mask, "inputs_embeds": embeds}
            if piece.starts is not None:  # the peers know none
                about["starts"] = piece.starts
            if head and not keep_streams:  # the module itself is called, for those who hook or wrap it
                logits, state = model(ids, state, **about, logits_at=at)
                parts.append(_Given(logits, None, None))
                continue
            features = model.features(ids, state, **about, keep_streams=keep_streams)
            state = features.state
            logits = model.logits(features, at=at) if head else None
            first = piece.length - fresh
            streams, hidden = features.streams, features.hidden
            if first > 0:
                hidden = hidden[:, first:]
                streams = None if streams is None else tuple(stream[:, first:] for stream in streams)
            parts.append(_Given(logits, hidden, streams))
        if cache is not None and use_cache:
            if state is None:
                raise UserError(
                    "use_cache: Mamba-2 keeps no state in training mode, got a cache or use_cache=True"
                )
            cache.put(state, given.shape[1], pieces)
            cache.config = model.config
        if whole:
            return parts[0]
        logits, hidden = (
            torch.cat(some, dim=1) if some else None
            for some in (
                [part.logits for part in parts if part.logits is not None],
                [part.hidden for part in parts if part.hidden is not None],
            )
        )
        streams = None
        if keep_streams:
            streams = tuple(
                torch.cat(depth, dim=1) for depth in zip(*(part.streams or () for part in parts), strict=True)
            )
        if logits is not None and isinstance(keep, Tensor):
            logits = positions_at(keep, logits)(logits)
        return _Given(logits, hidden, streams)

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        every = kwargs.get("every_n_layers", 1)
        if not fits(every, int) or every < 1:
            raise UserError(f"every_n_layers: expected a whole number of at least 1, got {shown(every)}")
        super()._set_gradient_checkpointing(*args, **kwargs)
        # transformers leaves out layers of its own class alone
        if isinstance(self.language_model, LanguageModel) and self.language_model.gradient_checkpointing:
            for number, block in enumerate(self.language_model.own_blocks()):
                block.gradient_checkpointing = number % every == 0

    def get_input_embeddings(self) -> nn.Embedding:
        return self.language_model.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        size = (self.config.vocab_size, self.language_model.embedding.embedding_dim)
        if not isinstance(value, nn.Embedding) or (value.num_embeddings, value.embedding_dim) != size:
            raise UserTypeError(f"set_input_embeddings: expected an Embedding{size}, got {shown(value)}")
        if isinstance(self.language_model, LanguageModel):
            tied = self.language_model.tied
            self.language_model.embedding = value
            if tied:
                self.language_model.tie_weights()
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
                f" {new_num_tokens}, as routing tables, votes and states go by token ids too; build a model"
                f" with vocab_size={new_num_tokens} instead"
            )
        return self.language_model.embedding

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        model = self.language_model
        if isinstance(model, LanguageModel) and model.config.head.tied and not model.tied:
            raise UserError(
                "save_pretrained: expected the embedding's weights in the head, as a model is loaded, got"
                " other ones (an adapter's, merged into one of the two?)"
            )
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

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw what neither __init__ nor a file has given (transformers guards what one has)."""
        model = self.language_model
        if not isinstance(model, LanguageModel):
            return  # the peer's own class knows how
        tensors = [*model.parameters(), *model.buffers()]
        if not any(_is_there(tensor) for tensor in tensors):
            model.init_weights()  # all at once, as a fresh model does
            for tensor in tensors:
                tensor._is_hf_initialized = True  # type: ignore[attr-defined]
            return
        if (model.tied and module is model.output_head) or all(map(_is_there, _own(module))):
            return
        # a part draws all of its weights together: what a file gave comes back afterwards, but of a module
        # that lacks some not the buffers, which are made of its weights
        part = _drawn_with(module, model)
        given = [
            (tensor, tensor.detach().clone())
            for inner in part.modules()
            for tensor in (
                _own(inner) if all(map(_is_there, _own(inner))) else inner.parameters(recurse=False)
            )
            if _is_there(tensor)
        ]
        model.init_module(part)
        for tensor, value in given:
            tensor.copy_(value)
        for tensor in [*part.parameters(), *part.buffers()]:
            tensor._is_hf_initialized = True  # type: ignore[attr-defined]


class UniMatrixModel(UniMatrixPreTrainedModel):
    """The language model without its head: the stream that the head reads."""

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: UniMatrixCache | None = None,
        use_cache: bool | None = None,
        past_key_values: UniMatrixCache | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        starts: Tensor | None = None,
        position_ids: Tensor | None = None,
        seq_lengths: Any = None,
        seq_idx: Tensor | None = None,
        **kwargs: Any,
    ) -> UniMatrixModelOutput:
        """last_hidden_state [B, T, D], behind the last LayerNorm; arguments as in `UniMatrixForCausalLM`."""
        asked = self._ask(
            input_ids,
            inputs_embeds,
            attention_mask,
            (cache, past_key_values),
            use_cache,
            output_hidden_states,
            kwargs | _documents(starts, position_ids, seq_lengths, seq_idx),
        )
        read = self._read(asked, head=False)
        return UniMatrixModelOutput(
            last_hidden_state=read.hidden,  # type: ignore[arg-type]
            hidden_states=read.streams,  # type: ignore[arg-type]
            **{CACHE_NAME: asked.cache if asked.use_cache else None},  # type: ignore[arg-type]
        )


# transformers looks for GenerationMixin among the direct bases
class UniMatrixForCausalLM(  # type: ignore[reportIncompatibleMethodOverride]
    UniMatrixPreTrainedModel, Decoding, GenerationMixin
):
    """The language model behind transformers' causal-LM interface."""

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: UniMatrixCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: UniMatrixCache | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        starts: Tensor | None = None,
        position_ids: Tensor | None = None,
        seq_lengths: Any = None,
        seq_idx: Tensor | None = None,
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
                does a label at padding or after padding, or at a document's first token
                (`next_token_loss`).
            use_cache: return the state, and bring a cache that is given up to date; None means yes where one
                is given, otherwise config.use_cache, and no in training.
            logits_to_keep: the logits of so many last positions only, or of these positions, as
                `LanguageModel.logits` takes them; 0 means all. The head computes no others, unless there are
                labels, or positions are given where the text is read in two pieces (a cache that records).
            inputs_embeds: [B, T, D] in the place of input_ids, where no part reads the ids themselves.
            output_hidden_states: return the stream behind the embeddings and behind each depth step; None
                means config.output_hidden_states.
            starts, position_ids, seq_lengths, seq_idx: where documents begin that are packed into a row: at
                True ([B, T] bool), where [B, T] positions start again at 0, by the lengths of each row's
                documents, where [B, T] numbers of documents change. Also by `cu_seq_lens_q` and
                `cu_seq_lens_k` of kwargs, or by several of them that agree: each document is read as if it
                were alone, and the state is the last one's. (What a Trainer hands on of a dataset's columns
                are the names that stand here.)
            kwargs: `num_items_in_batch` and `shift_labels` go to the loss (named among the others, a Trainer
                would ask every batch for the latter). `max_length_q` and `max_length_k` may not be less than
                the longest document. Any other must be None or False.
        Returns:
            loss (scalar float32 or None), logits [B, T, V], cache (`UniMatrixCache` or None; it answers to
            past_key_values too), hidden_states (L + 1 times [B, T, D], or None).
        Raises:
            UserError: the mask does not fit the tokens, an argument that this model does not know, documents
                that contradict each other or that it cannot keep apart (Mamba-2), a state of other rows or
                one that it does not keep (Mamba-2 in training mode).
        """
        asked = self._ask(
            input_ids,
            inputs_embeds,
            attention_mask,
            (cache, past_key_values),
            use_cache,
            output_hidden_states,
            kwargs | _documents(starts, position_ids, seq_lengths, seq_idx),
        )
        keep = logits_to_keep if isinstance(logits_to_keep, Tensor) else logits_to_keep or None
        choose = None if keep is None else _positions_at(keep, asked.given)
        shifted = kwargs.get("shift_labels")
        with_loss = labels is not None or shifted is not None
        read = self._read(asked, head=True, keep=None if with_loss else keep)
        logits, loss = read.logits, None
        assert logits is not None
        if with_loss:
            loss_kwargs = {name: kwargs[name] for name in LOSS_KWARGS if name in kwargs}
            about = {"mask": asked.mask, "starts": asked.starts, "training": self.training}
            loss = next_token_loss(self.loss_function, logits, labels, **about, **loss_kwargs)
            logits = logits if choose is None else choose(logits)
        return UniMatrixOutput(
            loss=loss,  # type: ignore[arg-type]
            logits=logits,  # type: ignore[arg-type]
            hidden_states=read.streams,  # type: ignore[arg-type]
            **{CACHE_NAME: asked.cache if asked.use_cache else None},  # type: ignore[arg-type]
        )

    def __setattr__(self, name: str, value: Any) -> None:
        # TRL's trainers put a forward in this one's place that multiplies the stream by the head's weights
        code = getattr(getattr(value, "__func__", value), "__code__", None) if name == "forward" else None
        if code is not None and "fused_lm_head" in code.co_varnames:
            more = _beside_products(self.language_model)
            if more is not None:
                raise UserError(
                    f"forward: expected the model's own, as its logits are more than products with the head's"
                    f" weights ({more}), which TRL's fused head leaves out; train with transformers' Trainer"
                )
        super().__setattr__(name, value)

    @property
    def model(self) -> UniMatrixModel:
        """The same language model without its head (transformers' `base_model`); the weights are shared."""
        # no submodule: the weights have one name
        base = self.__dict__.get("_headless")
        if base is None or base.language_model is not self.language_model:
            base = UniMatrixModel(self.config, self.language_model)
            self.__dict__["_headless"] = base
        base.training = self.training
        return base

    def get_output_embeddings(self) -> nn.Module | None:
        """The head, or None: Mamba-2's is its embedding itself."""
        model = self.language_model
        return model.output_head if isinstance(model, LanguageModel) else None

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        model = self.language_model
        if not isinstance(model, LanguageModel) or not model.config.head.tied:
            raise UserError("set_output_embeddings: expected a model whose head is over the vocabulary")
        size = (model.config.d_model, model.config.vocab_size)
        if (
            not isinstance(new_embeddings, nn.Linear)
            or (new_embeddings.in_features, new_embeddings.out_features) != size
            or new_embeddings.bias is not None
        ):
            raise UserTypeError(
                f"set_output_embeddings: expected a Linear{size} without bias, got {shown(new_embeddings)}"
            )
        setattr(model, model.config.head.attribute, new_embeddings)


def _documents(starts: Any, position_ids: Any, seq_lengths: Any, seq_idx: Any) -> dict[str, Any]:
    """What was said of where documents begin, by the names that `packing` knows."""
    said = {"starts": starts, "position_ids": position_ids, "seq_lengths": seq_lengths, "seq_idx": seq_idx}
    return {name: value for name, value in said.items() if value is not None}


def _beside_products(model: Any) -> str | None:
    """What makes a model's logits more than products with its head's weights; None: nothing does."""
    if not isinstance(model, LanguageModel):
        return None
    config = model.config
    if type(config.head).logits is not HeadConfig.logits:
        return f"head {config.head.kind}"
    return next(
        (f"votes of {name}" for name, part in config.all_parts.items() if "votes" in part.gives), None
    )


def _is_there(tensor: Tensor) -> bool:
    return getattr(tensor, "_is_hf_initialized", False)


def _own(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _drawn_with(module: nn.Module, model: nn.Module) -> nn.Module:
    """The innermost that says how its weights start and that holds this module, or it itself."""
    found = module
    for outer in model.modules():  # the inner come after the outer
        says = isinstance(outer, Part) or hasattr(outer, "init_weights")
        if says and outer is not model and any(inner is module for inner in outer.modules()):
            found = outer
    return found


def _positions_at(keep: int | Tensor, given: Tensor) -> Callable[[Tensor], Tensor]:
    """`positions_at` under the name that transformers has for it."""
    try:
        return positions_at(keep, given)
    except UserError as error:
        raise type(error)(f"logits_to_keep{str(error).removeprefix('at')}") from None


def unwrapped(language_model: Any, *, name: str = "language_model") -> TextModel:
    """The model inside what torch.compile, DistributedDataParallel and their like made of it.

    Raises:
        UserError: it is none of this library's; name says whose argument it was.
    """
    model = language_model
    while not isinstance(model, LanguageModel | Mamba2):
        inside = [getattr(model, name) for name in WRAPPERS if hasattr(model, name)]
        if not inside:
            raise UserTypeError(
                f"{name}: expected a LanguageModel or a Mamba2, got a {type(language_model).__name__}"
            )
        model = inside[0]
    return model


def _new_columns(attention_mask: Any, given: Tensor, num_past: int) -> Tensor | None:
    """The mask [B, T] bool of the tokens that are fed now, from a mask of these or of all tokens so far."""
    if attention_mask is None:
        return None
    if not isinstance(attention_mask, Tensor):
        raise UserTypeError(f"attention_mask: expected a tensor, got a {type(attention_mask).__name__}")
    batch_size, num_new = given.shape[:2]
    if tuple(attention_mask.shape) not in ((batch_size, num_new), (batch_size, num_past + num_new)):
        raise UserError(
            f"attention_mask: expected shape {(batch_size, num_new)}"
            f" or {(batch_size, num_past + num_new)}, got {tuple(attention_mask.shape)}"
        )
    new = attention_mask[:, attention_mask.shape[1] - num_new :]
    real = new.bool()
    # one that is added to scores, 0 to keep and -inf to leave out, would say the opposite; one that numbers
    # documents would make a text of them. The numbers of a whole one off the CPU would cost a synchronisation
    if (has_values if new.is_floating_point() else may_look)(new) and (new != real).any():
        other = new[new != real][0].item()
        raise UserError(f"attention_mask: expected 1 or True at tokens, 0 or False at padding, got {other:g}")
    return real


@contextmanager
def quiet_progress() -> Iterator[None]:
    """No progress bars from transformers inside the block."""
    previous = logging.set_tqdm_hook(lambda factory, args, kwargs: logging.EmptyTqdm(*args, **kwargs))
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)

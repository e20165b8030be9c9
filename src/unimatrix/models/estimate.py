"""How large a model would be, told from its config before a weight of it is made."""

import math
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

from unimatrix.data.tasks.triple_interaction import RULES, Symbols
from unimatrix.memory import check_fits, host_bytes
from unimatrix.mixers.layout import Kept
from unimatrix.models.config import ModelConfig, Parts
from unimatrix.models.kinds import AnyModelConfig
from unimatrix.models.language_model import LanguageModel, parameter_count
from unimatrix.models.mamba2 import Mamba2Config
from unimatrix.models.typed_latent import TypedLatentConfig


class Estimate(NamedTuple):
    """Of a model's weights alone; training takes about four times as much, and what it keeps of a batch."""

    parameters: int
    num_bytes: int  # in torch's default dtype


def estimate(config: AnyModelConfig) -> Estimate:
    """The exact number of weights, at once however many they are, and the bytes that they take."""
    count = _parameters(config)
    return Estimate(count, count * torch.get_default_dtype().itemsize)


def check_memory(config: AnyModelConfig, *, what: str) -> None:
    """Raise a UserError, `what` first, where the weights cannot be made on this machine."""
    if torch.get_default_device().type == "cpu":
        parameters, num_bytes = estimate(config)
        check_fits(num_bytes, what=f"{what}: {parameters:,} weights", there=host_bytes())


def least_state_bytes(config: ModelConfig) -> int:
    """Bytes of one row's state before the first token: what grows with the text counts as nothing yet."""
    few = tuple(dict.fromkeys(config.layers))
    layout = _on_meta(config, few, tuple(range(len(few))))._layout
    of_layer = {layer: _bytes(step) for layer, step in zip(few, layout.steps, strict=True)}
    return _bytes(layout.parts) + sum(of_layer[config.layers[which]] for which in config.order)


def _bytes(layout: Any) -> int:
    if isinstance(layout, Kept):
        numbers = 0 if None in layout.shape else math.prod(size or 0 for size in layout.shape)
        return numbers * (4 if isinstance(layout.dtype, str) else layout.dtype.itemsize)
    if layout is None:
        return 0
    return sum(_bytes(part) for part in (layout.values() if isinstance(layout, dict) else layout))


class _NoDraws(TorchFunctionMode):
    """Weights that are never made need no values; on the meta device to draw one loads torch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@cache
def _parameters(config: AnyModelConfig) -> int:
    if isinstance(config, TypedLatentConfig):
        table = (Symbols.NUM_ROLES + 1) * config.rank * config.num_values
        return table + len(RULES) * config.num_values
    if isinstance(config, Mamba2Config):
        inner, width = config.inner_width, config.convolution_width
        projections = config.d_model * (inner + width + config.num_heads) + inner * config.d_model
        # a convolution over 4 tokens with bias; per head a time step, a decay, a direct way; two norms
        block = projections + 5 * width + 3 * config.num_heads + inner + config.d_model
        return (config.vocab_size + 1) * config.d_model + config.depth * block
    # each distinct layer is built once; every other one like it has as many, every depth step adds the same
    few = tuple(dict.fromkeys(config.layers))
    once = tuple(range(len(few)))
    model, longer = _on_meta(config, few, once), _on_meta(config, few, (*once, 0))
    steps = parameter_count(longer) - parameter_count(model)
    of_layer = {layer: parameter_count(block) for layer, block in zip(few, model.blocks, strict=True)}
    others = sum(of_layer[layer] for layer in config.layers) - sum(of_layer.values())
    return parameter_count(model) + others + (config.depth - len(few)) * steps


def _on_meta(config: ModelConfig, layers: tuple[Parts, ...], order: tuple[int, ...]) -> LanguageModel:
    with torch.device("meta"), _NoDraws():
        return LanguageModel(replace(config, layers=layers, order=order))

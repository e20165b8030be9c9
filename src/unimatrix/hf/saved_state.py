"""A model's state in a file: what it has read, to go on from on another day.

One safetensors file. Its tensors have the names of their places in the state (`steps.0.mixer.matrix`); with
them may come the `logits` of the token that comes next. Its metadata, all texts:

    unimatrix_state    the version of this format
    config, versions   the model's configuration, resolved, and the version numbers of its parts, as JSON
    dtype, weights     of the model's weights, and their sha256
    tensors            the sha256 of the file's own tensors; older files have none, and are taken as they are

A state means something to the weights that made it and to no others, so a file of other weights is refused.
Nothing in a file is trusted: names, shapes, dtypes and values are looked at before a model sees them, and of
what indexes a text (a suffix automaton, a table of contexts) the tokens alone are kept.

Letters: B batch, V vocabulary.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils import _pytree as pytree

from unimatrix.atomic import replacing
from unimatrix.codec import check_can_be_written, check_file, encode, is_utf8, parse_json
from unimatrix.errors import UserError, UserTypeError, shown
from unimatrix.hf.generation import first_line
from unimatrix.hf.modeling import unwrapped
from unimatrix.hf.numbers import check_plain
from unimatrix.memory import check_fits, host_bytes
from unimatrix.mixers.layout import Kept, check_state
from unimatrix.models import ModelConfig, TextModel, resolved, settings_of, text_config_from_dict
from unimatrix.models.versions import versions_of
from unimatrix.ops.token_store import TokenStoreState
from unimatrix.ops.token_store.reading import compact, is_compact

VERSION = "1"
LOGITS, TENSORS = "logits", "tensors"
MOST_COUNTED = 2**62  # of tokens: a count beyond would wrap around when more are read
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def save_state(state: Any, path: str | Path, model: TextModel, *, logits: Tensor | None = None) -> None:
    """Write what a model has read into a safetensors file, whole or not at all.

    Args:
        state: what the model returned. Of what indexes a text its tokens are kept; the index is built anew.
        path: of the file; a saved state that is there is replaced.
        model: the one that returned it, compiled or not (of an adapter of Hugging Face's, its
            `language_model`).
        logits: [B, V] of the token that comes next, if one is to be chosen without reading another first.

    Raises:
        UserError: a state or logits of other shapes than this model's (that other weights made it cannot be
            told), another file in its place, or it cannot be written.
    """
    model = _model(model)
    path = _path(path)
    check_can_hold(path)
    batch = _batch_of(state)
    _check_layout(state, model, _ids(batch, model.embedding.weight.device))
    state = _each_store(state, compact)
    named = {name: tensor for name, tensor in _by_name(state) if tensor is not None}
    if logits is not None:
        _check_logits(logits, batch, model)
        named[LOGITS] = logits
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in named.items()}
    try:
        with replacing(path) as partial:
            save_file(tensors, partial, _about(model) | {TENSORS: sha256_of(tensors)})
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
        raise UserError(f"{shown(str(path))}: the state cannot be written ({reason})") from error


def check_can_hold(path: Path) -> None:
    """Raise a UserError where no state can be written: in the place of another file, or in no folder."""
    check_can_be_written(path)
    if path.exists() and path.stat().st_size and not _is_state(path):
        raise UserError(f"{path}: expected a saved state to replace, or no file, got another one")


def load_state(
    path: str | Path, model: TextModel, *, batch_size: int | None = None
) -> tuple[Any, Tensor | None]:
    """What `save_state` wrote: the state, where the model is, and the logits [B, V] or None.

    Args:
        model: the one that the state is of, by its configuration and by its weights.
        batch_size: how many rows it must have; None takes any.

    Raises:
        UserError: no such file, none of a state, cut short or damaged, or of another model, dtype or batch;
            one line says which.
    """
    model = _model(model)
    check_plain("batch_size", batch_size, int)
    path = _path(path)
    check_file(path)
    size = path.stat().st_size
    check_fits(2 * size, what=f"{path}: {size:,} bytes", there=host_bytes())
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            _check_about(about, model)
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if TENSORS in about and about[TENSORS] != sha256_of(found):
                raise UserError("wrong checksum, the file was changed or damaged")
            tensors = {name: _own(found.pop(name)) for name in list(found)}
        return _checked(tensors, model, batch_size)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: expected a saved state, cut short or no safetensors file ({first_line(error)})"
        ) from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _checked(
    tensors: dict[str, Tensor], model: TextModel, batch_size: int | None
) -> tuple[Any, Tensor | None]:
    """The state of these tensors, after a look at each."""
    logits, config = tensors.pop(LOGITS, None), model.config
    layout = _by_name(model.state_layout)
    known = {name: part for name, part in layout if part is not None}
    for name in [*known, *tensors]:
        if name not in known:
            raise UserError(f"expected the tensors of this model's state alone, got {shown(name)} too")
        if name not in tensors and not known[name].optional:
            raise UserError(f"expected a tensor {name}, got none")
    spec = pytree.tree_structure(model.state_layout, is_leaf=_is_kept)
    state = pytree.tree_unflatten([tensors.get(name) for name, _ in layout], spec)
    batch = _batch_of(state)
    if batch_size is not None and batch != batch_size:
        raise UserError(f"expected batch_size {batch_size}, got a state of {batch}")
    _check_layout(state, model, _ids(batch, "cpu"))
    _each_store(state, lambda found: _check_store(found, batch, config.vocab_size))
    for name, tensor in tensors.items():
        _check_values(name, tensor, known[name], config.vocab_size)
    _check_lengths(tensors, known)
    furthest = int(state.position.max()) if batch else 0
    if config.max_positions is not None and furthest > config.max_positions:
        raise UserError(f"expected at most {config.max_positions} positions, got {furthest}")
    device = model.embedding.weight.device
    if logits is not None:
        _check_logits(logits, batch, model)
        logits = logits.to(device)
    return _each(lambda x: x if isinstance(x, TokenStoreState) else x.to(device), state), logits


def _own(tensor: Tensor) -> Tensor:
    """A copy, as the file may be written over later. A byte that is no bool becomes one."""
    return tensor.view(torch.uint8) != 0 if tensor.dtype == torch.bool else tensor.clone()


def _path(path: Any) -> Path:
    if not isinstance(path, str | Path) or path == "":
        raise UserTypeError(f"path: expected a text or a path, got {shown(path)}")
    if "\0" in str(path) or not is_utf8(str(path)):  # of which safetensors would lose or misread the name
        raise UserError(f"path: expected one in UTF-8 and without NUL, got {shown(str(path))}")
    return Path(path)


def _is_state(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return "unimatrix_state" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _model(model: Any) -> TextModel:
    model = unwrapped(model, name="model")
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise UserError("model: expected weights with values, got some on the meta device")
    return model


def _about(model: TextModel) -> dict[str, str]:
    """What a state's file says of its model."""
    config = resolved(model.config)
    return {
        "unimatrix_state": VERSION,
        "config": json.dumps(config.to_dict()),
        "versions": json.dumps(versions_of(config), sort_keys=True),
        "dtype": str(model.embedding.weight.dtype).removeprefix("torch."),
        "weights": sha256_of(model.state_dict()),
    }


def _check_about(found: Mapping[str, str], model: TextModel) -> None:
    """Raise a UserError unless the file is a state of this model."""
    version = found.get("unimatrix_state")
    if version != VERSION:
        got = "another safetensors file" if version is None else f"one in format {shown(version)}"
        raise UserError(f"expected a saved state in format {VERSION}, got {got}")
    expected = _about(model)
    for name in expected:
        if name not in found:
            raise UserError(f"expected a saved state's metadata, got none of its {name}")
    # as values: a setting that is newer than the file is at its default there
    theirs = _settings(resolved(text_config_from_dict(parse_json(found["config"], where="config"))))
    ours = _settings(resolved(model.config))
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"a state of another model, expected {name} = {shown(ours.get(name))}, got"
                f" {shown(theirs.get(name))}"
            )
    for name in ("versions", "dtype"):
        if found[name] != expected[name]:
            raise UserError(
                f"a state of another model, expected {name} {expected[name]}, got {shown(found[name])}"
            )
    if found["weights"] != expected["weights"]:
        raise UserError("a state of other weights, expected one that this very model has made")


def _settings(config: Any) -> dict[str, Any]:
    """A configuration by the paths of its settings; which form of an op computes is none of what it is."""
    if not isinstance(config, ModelConfig):
        return config.to_dict()
    paths = encode(settings_of(config)) | {"parts, in order": list(config.all_parts)}
    return {path: value for path, value in paths.items() if path.rpartition(".")[2] != "backend"}


def sha256_of(tensors: Mapping[str, Tensor]) -> str:
    """Of all of them, by name, dtype, shape and bytes, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        # a copy has strides of its own, as one element is contiguous with any; a bool is copied as its byte
        bits = tensor.detach().view(torch.uint8) if tensor.dtype == torch.bool else tensor.detach()
        flat = torch.empty(bits.numel(), dtype=bits.dtype).copy_(bits.reshape(-1))
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_kept(value: Any) -> bool:
    return isinstance(value, Kept)


def _by_name(value: Any) -> list[tuple[str, Any]]:
    """The tensors of a state, or what stands for them in a layout, by their places; None where is none."""
    found, _ = pytree.tree_flatten_with_path(value, is_leaf=_is_kept)
    return [(".".join(map(_key, path)), leaf) for path, leaf in found]


def _key(key: Any) -> str:
    """The name or the number that is a step of a path."""
    return str(dataclasses.astuple(key)[0])


def _each(function: Callable[[Any], Any], value: Any) -> Any:
    """A state or layout with what a function makes of its leaves and, whole, of its stores of tokens."""
    leaf = (Kept, TokenStoreState)
    return pytree.tree_map(
        lambda x: None if x is None else function(x), value, is_leaf=lambda x: isinstance(x, leaf)
    )


def _each_store(value: Any, function: Callable[[TokenStoreState], Any]) -> Any:
    return _each(lambda x: function(x) if isinstance(x, TokenStoreState) else x, value)


def _check_layout(state: Any, model: TextModel, ids: Tensor) -> None:
    """Raise a UserError unless it is a state of this model, apart from its stores of tokens."""
    bare, layout = (_each_store(x, lambda _: None) for x in (state, model.state_layout))
    check_state(bare, layout, ids, model.embedding.weight.dtype)


def _check_lengths(tensors: Mapping[str, Tensor], layout: Mapping[str, Kept]) -> None:
    """Raise a UserError unless what grows with the text has grown alike within each part."""
    lengths: dict[str, int] = {}
    for name, tensor in tensors.items():
        for at, size in enumerate(layout[name].shape):
            place, length = name.rpartition(".")[0], tensor.shape[1 + at]
            if size is None and lengths.setdefault(place, length) != length:
                raise UserError(f"{name}: expected the length of its part, {lengths[place]}, got {length}")


def _check_values(name: str, tensor: Tensor, expected: Kept, vocab_size: int) -> None:
    """Raise a UserError for numbers that no state has."""
    if tensor.is_floating_point():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{name}: expected finite numbers, got NaN or infinity")
    elif tensor.dtype != torch.bool and tensor.numel():
        low, high = (int(x) for x in tensor.aminmax())
        least, most = 0 if name == "position" else -1, vocab_size - 1 if expected.ids else MOST_COUNTED
        if low < least or high > most:
            raise UserError(
                f"{name}: expected whole numbers from {least} to {most}, got {low if low < least else high}"
            )


def _check_store(state: TokenStoreState, batch: int, vocab_size: int) -> None:
    dtypes = [tensor.dtype for tensor in state]
    right = dtypes == [torch.int64, torch.int64, torch.int32] and len(state.length) == batch
    if not right or not is_compact(state, vocab_size=vocab_size):
        raise UserError("expected tokens that were read, got other numbers")


def _check_logits(logits: Any, batch: int, model: TextModel) -> None:
    shape = (batch, model.config.vocab_size)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != shape or logits.dtype not in _FLOATS:
        got = f"{logits.dtype} {list(logits.shape)}" if isinstance(logits, Tensor) else shown(logits)
        raise UserError(f"{LOGITS}: expected floating point {list(shape)}, got {got}")
    if logits.is_meta or bool(logits.isnan().any()):
        raise UserError(f"{LOGITS}: expected numbers, got {'none' if logits.is_meta else 'NaN'}")


def _batch_of(state: Any) -> int:
    position = getattr(state, "position", None)
    if not isinstance(position, Tensor) or position.dim() != 1:
        raise UserError(f"state: expected one that a language model returned, got {shown(state)[:80]}")
    return len(position)


def _ids(batch: int, device: Any) -> Tensor:
    return torch.empty(batch, 0, dtype=torch.int64, device=device)

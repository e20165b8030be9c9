"""A target for each argument of each public function, and each field of each experiment's settings.

What there is, is read from signatures and dataclasses; written out here is one good call of each function.
"""

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from fuzz.harness import Accepted, Target, scratch, works_or_is_refused
from fuzz.values import PYTHON_VALUES, TEXTS, changed_tensor, damaged_json
from fuzz.world import OLDER
from hypothesis import strategies as st
from torch import Tensor

from unimatrix import build, hf, ops
from unimatrix.codec import parse_json
from unimatrix.data import load_corpus
from unimatrix.data.tasks import TASKS, TaskConfig
from unimatrix.mixers import MLP, MLPConfig, parts, register
from unimatrix.models import (
    LanguageModel,
    ModelConfig,
    config_from_dict,
    edit,
    estimate,
    model_from_config,
    peer_presets,
    preset_config,
    presets,
    settings_of,
    task_presets,
)
from unimatrix.ops import SlotMemoryState, TripleLatentState
from unimatrix.ops.token_store.reading import compact
from unimatrix.train import Experiment, LoopConfig, ModelChoice, OptimConfig, loop, train

# what an argument is called in a complaint that is about it and another one together
ALSO: dict[str, tuple[str, ...]] = {
    "name": ("preset",),
    "overrides": ("preset",),
    "slots": ("num_slots",),
    "memory_width": ("width", "memory"),
    "mlp_expansion": ("expansion",),
    "deep_embed_rank": ("rank",),
    "device": ("device",),
    "path_or_hub_name": ("folder", "model", "hub", "path"),
    "experiment": ("experiment",),
    "out": ("output folder",),
    "resume": ("output folder", "resume"),
    "overwrite": ("output folder", "overwrite"),
    "corpus": ("corpus", "text"),
    "config": ("config", "task", "register"),
    "module": ("register",),
    # what reads or gives what it gives is named as well
    "mixer": ("parts.",),
    "changes": ("model config", "preset"),
    "inputs_embeds": ("input_ids", "embeds"),
    "logits_at": ("at:",),
    "input_ids": ("mask", "inputs_embeds", "attention_mask"),
    "text": ("data",),
    "state": ("input_ids",),
    "tokens": ("token",),
    "num_keys": ("vocab_size",),
    "num_values": ("vocab_size",),
    "num_tag_symbols": ("vocab_size",),
    "depth": ("preset",),
    "d_model": ("preset",),
    "past_key_values": ("cache", "past_key_values"),
    "task": ("seq_len", "kind", "text"),
    "max_positions": ("seq_len",),
    "model": ("model", "preset"),
}


@dataclasses.dataclass(frozen=True)
class Call:
    """A public function and arguments with which it works; `given` is made anew for each case."""

    name: str
    function: Callable[..., Any]
    given: Callable[[Any], dict[str, Any]]


def _draw(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) - 0.5


def _mask(length: int) -> Tensor:
    return torch.arange(length)[None].expand(2, -1) > 0


# letters: B 2, T 3, H 2, S 4
_HEADS = (2, 3, 2, 4)


def _op_calls() -> Iterator[Call]:
    decays = -_draw(*_HEADS[:3]).abs()
    good: dict[str, dict[str, Any]] = {
        "matrix_state": {
            **{name: _draw(*_HEADS) for name in ("q", "k", "v", "diag")},
            "log_retention": decays,
            "rule_weights": _draw(*_HEADS[:3], 3).softmax(-1),
            "state": _draw(2, 2, 4, 4),
            "chunk_len": 2,
        },
        "signed_scan": {"decay": _draw(2, 3, 4), "write": _draw(2, 3, 4), "state": _draw(2, 4)},
        "short_convolution": {"x": _draw(2, 3, 4), "weight": _draw(4, 4), "state": _draw(2, 3, 4)},
        "gated_product": {"gate_and_up": _draw(2, 3, 4)},
        "gated_scan": {"gates": _draw(2, 3, 3, 4), "state": _draw(2, 4)},
        "slot_memory": {
            **{name: _draw(2, 3, 4) for name in ("query", "key", "value")},
            "token_ids": torch.tensor([[1, 2, 3], [3, 2, 1]]),
            "write_strength": torch.full((2, 3), 0.75),
            "num_slots": 2,
            "top_k": 2,
            "match_threshold": 0.9,
            "write_threshold": 0.5,
            "state": None,
            "chunk_len": 2,
        },
        "surprise_store": {
            **{name: _draw(2, 3, 4) for name in ("query", "key", "value")},
            "token_ids": torch.tensor([[1, 2, 3], [3, 2, 1]]),
            "surprise": torch.full((2, 3), 0.75),
            "budget": 2,
            "policy": "surprise",
            "rate": 0.5,
            "window": 3,
            "top_k": 2,
            "seed": 1,
            "allowed": ~_mask(3),
            "state": None,
            "chunk_len": 2,
        },
        "triple_latent": {
            **{name: _draw(*_HEADS) for name in ("a", "b", "q_l", "q_r")},
            "log_retention": decays,
            "log_pair_retention": decays,
            "addresses": None,
            "state": None,
        },
        "m2rnn": {
            **{name: _draw(*_HEADS) for name in ("q", "k", "v")},
            "log_retention": decays,
            "transition": _draw(2, 4, 4),
            "state": _draw(2, 2, 4, 4),
        },
        # of a state with a tree the numbers in the tree are taken as they are: this one has none
        "suffix_automaton": {
            "tokens": _IDS,
            "state": compact(ops.suffix_automaton(_IDS)[1]),
            "starts": ~_mask(3),
            "capacity": 4,
        },
        "context_continuations": {
            "tokens": _IDS,
            "state": compact(ops.context_continuations(_IDS)[1]),
            "orders": (1, 2),
            "continuations": 2,
            "starts": ~_mask(3),
            "capacity": 4,
        },
    }
    for name in public_ops():
        taken = inspect.signature(getattr(ops, name)).parameters
        extra = {key: value for key, value in {"mask": _mask(3), "backend": "auto"}.items() if key in taken}

        def given(_: Any, name: str = name, extra: Any = extra) -> dict[str, Any]:
            copies = {
                key: value.clone() if isinstance(value, Tensor) else value
                for key, value in good[name].items()
            }
            return copies | extra

        yield Call(f"ops.{name}", getattr(ops, name), given)


def public_ops() -> list[str]:
    """The functions that unimatrix.ops offers and that compute something."""
    return [name for name in ops.__all__ if inspect.isfunction(getattr(ops, name)) and name != "backends_of"]


@cache
def _tiny(name: str = "unimatrix-core") -> Any:
    torch.manual_seed(0)
    return build(name, d_model=8, num_heads=2, depth=1, max_positions=16).eval()


@cache
def _hf_model() -> hf.UniMatrixForCausalLM:
    return hf.UniMatrixForCausalLM.from_language_model(_tiny()).eval()


_IDS = torch.tensor([[104, 105, 106], [5, 6, 7]])


def _model_calls() -> Iterator[Call]:
    def forward(_: Any) -> dict[str, Any]:
        _, state = _tiny()(_IDS)
        return {
            "input_ids": _IDS.clone(),
            "state": state,
            "mask": _mask(3),
            "inputs_embeds": None,
            "logits_at": 1,
        }

    def hf_forward(_: Any) -> dict[str, Any]:
        return {"input_ids": _IDS.clone(), "attention_mask": torch.ones_like(_IDS), "labels": _IDS.clone()}

    def generate(_: Any) -> dict[str, Any]:
        return {"input_ids": _IDS.clone(), "attention_mask": torch.ones_like(_IDS), "max_new_tokens": 2}

    def stream(_: Any) -> dict[str, Any]:
        given = {"model": _hf_model(), "tokenizer": hf.ByteTokenizer(), "prompt": "ab", "max_new_tokens": 2}
        return given | {"temperature": 0.9, "top_k": 5, "top_p": 0.9, "seed": 3}

    def take(**given: Any) -> Any:
        pieces = hf.stream(**given)
        return [piece for piece, _ in zip(pieces, range(4), strict=False)]

    take.__signature__ = inspect.signature(hf.stream)  # type: ignore[attr-defined]
    yield Call("LanguageModel.forward", _tiny(), forward)
    yield Call("UniMatrixForCausalLM.forward", _hf_model(), hf_forward)
    yield Call("UniMatrixForCausalLM.generate", _hf_model().generate, generate)
    yield Call("hf.load", hf.load, lambda world: {"path_or_hub_name": world.checkpoint, "device": "cpu"})
    yield Call("hf.stream", take, stream)

    def save_state(_: Any) -> dict[str, Any]:
        logits, state = _tiny()(_IDS)
        return {"state": state, "model": _tiny(), "logits": logits[:, -1].detach()}

    def save(*, state: Any, model: Any, logits: Any) -> None:
        with scratch() as folder:
            hf.save_state(state, folder / "a.state", model, logits=logits)

    def load_state(_: Any) -> dict[str, Any]:
        return {"model": _tiny(), "batch_size": 2}

    def load(*, model: Any, batch_size: Any) -> Any:
        with scratch() as folder:
            hf.save_state(_tiny()(_IDS)[1], folder / "a.state", _tiny())
            return hf.load_state(folder / "a.state", model, batch_size=batch_size)

    yield Call("hf.save_state", save, save_state)
    yield Call("hf.load_state", load, load_state)


def _config_calls() -> Iterator[Call]:
    yield Call("register", register, lambda _: {"module": MLP, "config": MLPConfig})
    yield Call("edit", edit, lambda _: {"config": preset_config("unimatrix-core"), "changes": {"depth": 2}})


def _tokenizer_calls() -> Iterator[Call]:
    tokenizer = hf.ByteTokenizer()
    good: dict[str, dict[str, Any]] = {
        "encode_bytes": {"data": b"ab"},
        "decode_bytes": {"token_ids": [97, 98]},
        "tokenize": {"text": "ab"},
        "convert_tokens_to_ids": {"tokens": ["a", "b"]},
        "convert_tokens_to_string": {"tokens": ["a", "b"]},
        "decode": {"token_ids": [97, 98]},
        "__call__": {"text": "ab"},
    }
    for name, given in good.items():
        yield Call(f"ByteTokenizer.{name}", getattr(tokenizer, name), lambda _, given=given: dict(given))
    yield Call("ByteTokenizer", hf.ByteTokenizer, lambda _: {"errors": "replace", "prepend_bos": False})


def _task_calls() -> Iterator[Call]:
    for kind, task in TASKS.items():

        def given(_: Any, task: Any = task) -> dict[str, Any]:
            return {"config": task.config(), "seed": 1, "step": 2, "batch_size": 2, "stream": "train"}

        yield Call(f"{kind}.make", task.make, given)


def _train_calls() -> Iterator[Call]:
    def given(world: Any) -> dict[str, Any]:
        sizes = ModelChoice(changes={"d_model": 8, "num_heads": 2, "depth": 1})
        settings = LoopConfig(steps=1, batch_size=2, seq_len=8, tracker="none", device="cpu")
        experiment = Experiment(model=sizes, loop=settings)
        return {"experiment": experiment, "corpus": load_corpus(str(world.text)), "out": "out"}

    def call(**given: Any) -> Any:
        def accept(*_: Any, **__: Any) -> Any:
            raise Accepted

        with pytest.MonkeyPatch.context() as patch, scratch() as folder:
            patch.chdir(folder)
            patch.setattr(loop, "_advance", accept)
            return train(**given)

    call.__signature__ = inspect.signature(train)  # type: ignore[attr-defined]
    yield Call("train", call, given)


def calls() -> list[Call]:
    """All public functions with several arguments of their own."""
    kinds = (_op_calls, _model_calls, _config_calls, _tokenizer_calls, _task_calls, _train_calls)
    return [call for kind in kinds for call in kind()]


def parameters(call: Call) -> list[str]:
    """The names that a function declares, and those that the good call gives besides."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    declared = [name for name, one in _signature(call).items() if one.kind not in kinds and name != "self"]
    return declared


def _signature(call: Call) -> Any:
    functions: dict[str, Any] = {
        "LanguageModel.forward": LanguageModel.forward,
        "UniMatrixForCausalLM.forward": hf.UniMatrixForCausalLM.forward,
    }
    if call.name == "UniMatrixForCausalLM.generate":
        names = (
            "input_ids",
            "attention_mask",
            "max_new_tokens",
            "do_sample",
            "temperature",
            "top_k",
            "num_beams",
        )
        return {name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names}
    if call.name.startswith("ByteTokenizer.") and call.name.split(".")[1] in ("decode", "__call__"):
        # transformers' own, of which the first is what we answer for
        (first, *_) = [name for name in inspect.signature(call.function).parameters if name != "self"]
        return {first: inspect.Parameter(first, inspect.Parameter.KEYWORD_ONLY)}
    return inspect.signature(functions.get(call.name, call.function)).parameters


def _check_call(call: Call, name: str) -> Any:
    def check(world: Any, value: Any) -> None:
        given = call.given(world)
        # of tensors that do not agree any one may be named
        others = [one for one in given if isinstance(value, Tensor) and isinstance(given[one], Tensor)]
        try:
            with works_or_is_refused(name, *ALSO.get(name, ()), *others):
                call.function(**given | {name: value})
        except Accepted:
            pass

    return check


def _values(good: Any) -> st.SearchStrategy[Any]:
    if isinstance(good, Tensor):
        return st.one_of(changed_tensor(good), changed_tensor(good), PYTHON_VALUES)
    if isinstance(good, tuple) and hasattr(good, "_fields"):
        # a state: each of its tensors changed, or one of another kind
        places = [
            (name, part) for name, part in zip(good._fields, good, strict=True) if isinstance(part, Tensor)
        ]
        changed = [
            changed_tensor(part).map(lambda new, name=name: good._replace(**{name: new}))
            for name, part in places
        ]
        return st.one_of(*changed, PYTHON_VALUES, st.just(SlotMemoryState), st.just(TripleLatentState))
    if isinstance(good, str | bytes):
        return st.one_of(st.sampled_from(TEXTS), st.sampled_from(TEXTS), PYTHON_VALUES)
    return PYTHON_VALUES


def _build_targets() -> Iterator[Target]:
    """Every setting of every preset by its path, and by the end of it; every part as a whole."""
    by_setting: dict[str, list[str]] = {}
    for preset, config in (presets() | peer_presets() | task_presets()).items():
        for path in _paths(config):
            by_setting.setdefault(path, []).append(preset)
    for setting, names in by_setting.items():

        def check(_: Any, case: tuple[str, Any], setting: str = setting) -> None:
            preset, value = case
            end = setting.split(".")[-1]
            with works_or_is_refused(setting, end, *ALSO.get(end, ())):
                build(preset, **{setting: value})

        values = st.one_of(PYTHON_VALUES, _PARTS) if setting in _WHOLES else PYTHON_VALUES
        yield Target("argument", f"build {setting}", st.tuples(st.sampled_from(names), values), check)

    def check_path(_: Any, case: tuple[str, str, Any]) -> None:
        preset, path, value = case
        with works_or_is_refused():
            preset_config(preset, **{path: value})

    cases = st.tuples(st.sampled_from(sorted(presets())), _odd_paths(), st.one_of(PYTHON_VALUES, _PARTS))
    yield Target("argument", "build by any path", cases, check_path)

    def check_name(_: Any, value: Any) -> None:
        with works_or_is_refused("preset", "name"):
            build(value)

    yield Target("argument", "build name", PYTHON_VALUES, check_name)


_WHOLES = ("layers", "parts", "norm", "head", "layers.0.mixer", "layers.*.feed_forward", "parts.memory")
# parts as Python and as JSON have them: of every kind, with settings that are right, wrong or nobody's
_PARTS = st.one_of(
    st.sampled_from(sorted(parts())),
    st.builds(
        lambda kind, setting, value: {"kind": kind, setting: value},
        st.sampled_from(sorted(parts())),
        st.sampled_from(sorted({name for part in parts().values() for name in part.settings})),
        st.one_of(st.integers(-2, 5), st.sampled_from([None, True, 0.5, "x", [1]])),
    ),
    st.sampled_from([MLPConfig(), MLPConfig, MLP, {"kind": "mlp", 3: 4}, [{"name": "x", "kind": "mlp"}]]),
    st.sampled_from([[{"mixer": "attention"}], [[]], [{}], {"memory": "slots"}, {"x": None}, {3: "mlp"}]),
)


def _paths(config: Any) -> list[str]:
    """What a change of this model may be called: whole paths, the ends of them that are a setting's name."""
    if not isinstance(config, ModelConfig):
        return [field.name for field in dataclasses.fields(config)]
    whole = list(settings_of(config))
    return list(dict.fromkeys([*whole, *(path.split(".")[-1] for path in whole), *_WHOLES, "slots"]))


def _odd_paths() -> st.SearchStrategy[str]:
    words = ("layers", "parts", "norm", "head", "mixer", "feed_forward", "memory", "kind", "num_heads", "*")
    words += (
        "0",
        "1",
        "-1",
        "00",
        "1_0",
        "\u0663",
        "\u00b2",
        "9" * 5000,
        "",
        " ",
        "x" * 3000,
        "__class__",
        "a\nb",
    )
    return st.lists(st.sampled_from(words), min_size=1, max_size=5).map(".".join)


def _config_targets() -> Iterator[Target]:
    """Model configs in JSON, of this version's form and of 0.1.0's, damaged at every place."""

    def check(_: Any, data: bytes) -> None:
        with works_or_is_refused("model config"):
            values = parse_json(data, where="model config")
            config = config_from_dict(values)
            if "shared_depth" in values and isinstance(config, ModelConfig):
                assert config.depth == values.get("depth", 3)
                assert len(config.layers) == (1 if values["shared_depth"] else config.depth)
            assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config
            if estimate(config).parameters < 10**6 and getattr(config, "depth", 1) < 20:
                # what cannot work cannot be made
                with torch.no_grad():
                    model_from_config(config).eval()(torch.zeros(1, 1, dtype=torch.int64))

    for kind, config in _configs_of_all_kinds():
        yield Target("argument", f"config with {kind}", damaged_json(config.to_dict()), check)
    for then in json.loads((OLDER / "models.json").read_bytes()):
        yield Target("argument", f"older config {then['preset']}", damaged_json(then["config"]), check)

    def check_choice(_: Any, data: bytes) -> None:
        with works_or_is_refused():
            experiment = Experiment.from_dict(parse_json(data, where="experiment"))
            assert Experiment.from_dict(json.loads(json.dumps(experiment.to_dict()))) == experiment
            experiment.model.resolved(64)

    record = json.loads((OLDER / "runs" / "slots" / "run.json").read_bytes())["experiment"]
    yield Target("argument", "older choice", damaged_json({"model": record["model"]}), check_choice)
    choice = ModelChoice(preset="unimatrix-sparse-pointer", changes={"depth": 2, "parts.memory.top_k": 2})
    own = ModelChoice(
        config=ModelConfig(d_model=8, vocab_size=64, layers=({"mixer": MLPConfig(expansion=1)},))
    )
    for name, one in (("choice", choice), ("choice of a config", own)):
        yield Target("argument", name, damaged_json(Experiment(model=one).to_dict()), check_choice)


def _configs_of_all_kinds() -> Iterator[tuple[str, ModelConfig]]:
    """A small model with each kind of part where it may stand."""
    small = edit(
        preset_config("unimatrix-core"),
        {"d_model": 8, "num_heads": 2, "state_dim": 4, "depth": 2, "vocab_size": 16, "max_positions": 8},
    )
    for kind, part in sorted(parts().items()):
        given = {"num_classes": 4, "first_token": 3} if kind == "classes" else {}
        heads = {"num_heads": 2} if "num_heads" in part.settings else {}
        place = {"mix": "layers.0.mixer", "feed": "layers.0.feed_forward", "model": "parts.it"}.get(
            part.role, part.role
        )
        if part.config.reads - {"ids", "context"}:
            place = "layers.0.it"
        yield kind, edit(small, {place: part.config(**given | heads)})


def _settings_targets() -> Iterator[Target]:
    """Every field of an experiment and of the tasks."""
    classes: list[Any] = [Experiment, ModelChoice, OptimConfig, LoopConfig, *TaskConfig.__args__]
    for one in classes:
        for field in dataclasses.fields(one):

            def check(_: Any, value: Any, one: Any = one, name: str = field.name) -> None:
                with works_or_is_refused(name, *ALSO.get(name, ())):
                    one(**{name: value})

            yield Target("argument", f"{one.__name__} {field.name}", PYTHON_VALUES, check)


def argument_targets(world: Any) -> list[Target]:
    """One for each argument."""
    found = []
    for call in calls():
        good = call.given(world)
        for name in parameters(call):
            target = Target(
                "argument", f"{call.name} {name}", _values(good.get(name)), _check_call(call, name)
            )
            found.append(target)
    return [*found, *_build_targets(), *_config_targets(), *_settings_targets()]


def argument_names() -> list[str]:
    """The targets' names, which need no world."""
    found = [f"{call.name} {name}" for call in calls() for name in parameters(call)]
    return [
        *found,
        *(target.name for target in (*_build_targets(), *_config_targets(), *_settings_targets())),
    ]

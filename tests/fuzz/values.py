"""What is drawn: odd values of a command line, of JSON and of Python, and damage to files that were good."""

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin

import numpy as np
import safetensors.torch
import torch
from hypothesis import strategies as st
from torch import Tensor

# between small sizes and those that no memory holds there is nothing: that would only make the tests slow
WHOLE = (0, -1, 1, 2, 3, 7, 10**9, 10**12, 2**63 - 1, 2**63, -(2**63), 10**18, 10**30)
NUMBERS = (0.0, -0.0, -1.0, 0.5, 1.0, 1.5, 1e-30, 1e30, 1e308, float("nan"), float("inf"), -float("inf"))
TEXTS = (
    "",
    " ",
    "x",
    "1",
    "None",
    "nan",
    "[/b]",
    ":smile:",
    "a\nb",
    "\x1b[31m",
    "é",
    "٣",
    "x" * 3000,
    "\udcff",
)
# never a path out of the folder that a case may write into
words = st.text(st.characters(exclude_characters="/.~\0", exclude_categories=["Cs"]), max_size=12)

WRITTEN: dict[type, tuple[str, ...]] = {
    int: (
        "0",
        "-1",
        "1",
        "2",
        "3",
        "1000000000",
        str(10**18),
        str(10**30),
        "9" * 80,
        "1.5",
        "1e3",
        "+1",
        "1_0",
    ),
    float: ("0", "-1", "0.5", "1", "1e30", "1e-30", "1e308", "1e999", "nan", "inf", "-inf", "1,5"),
    bool: ("True", "False", "true", "1", "yes"),
    str: ("x", "../../x", "[/b]", "a\nb", "x" * 5000, "\udcff"),
}
ODD_WORDS = ("", " ", "x", "None", "nan", "٣", "0x10", "-", "--", "-x", "a\0b", "x" * 400)


def option_values(hint: Any, *, paths: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    """The words behind an option of this type: fitting ones, odd ones, none, several."""
    leaves = [leaf for leaf in _leaves(hint) if leaf is not type(None)]
    written: list[str] = list(ODD_WORDS)
    for leaf in leaves:
        written += [str(one) for one in (leaf if isinstance(leaf, tuple) else WRITTEN.get(leaf, paths))]
    if str in leaves:
        written += paths
    numbers = st.integers(-3, 9).map(str) if int in leaves else st.floats(-2.0, 2.0).map(str)
    one = st.one_of(st.sampled_from(written), st.sampled_from(written), numbers, words)
    return st.one_of(st.lists(one, min_size=1, max_size=1), st.lists(one, max_size=3))


def _leaves(hint: Any) -> Iterator[Any]:
    if get_origin(hint) is Literal:
        yield get_args(hint)
    elif get_args(hint):
        for argument in get_args(hint):
            yield from _leaves(argument)
    elif hint is not Ellipsis:
        yield hint


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


JSON_VALUES = st.one_of(
    st.sampled_from(
        [
            *(None, True, False, *WHOLE, *NUMBERS, *TEXTS[:-1], "\ud800"),
            *(
                [],
                [1],
                ["x"],
                [None],
                [[1, 2], [3]],
                [1, 2],
                {},
                {"kind": "x"},
                {"kind": []},
                {"a": {"b": 1}},
            ),
            _nested(100),
        ]
    ),
    st.text(max_size=8),
    st.integers(-5, 5),
    st.floats(-2.0, 2.0),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        # of a long list the first items are like the others
        if not (isinstance(key, int) and key > 2):
            yield from _places(item, (*path, key))


def _changed(document: Any, path: tuple[Any, ...], action: str, value: Any) -> Any:
    copy = json.loads(json.dumps(document))
    if not path:
        return value
    *way, last = path
    inner = copy
    for key in way:
        inner = inner[key]
    if action == "replace":
        inner[last] = value
    elif action == "delete":
        del inner[last]
    elif isinstance(inner, dict):
        inner["unknown"] = value
    else:
        inner.append(value)
    return copy


class Bytes(bytes):
    """A file's contents, shown by their ends alone."""

    def __repr__(self) -> str:
        ends = bytes(self) if len(self) < 300 else self[:150] + b" ... " + self[-150:]
        return f"{len(self)} bytes {bytes(ends)!r}"


def damaged_json(document: Any) -> st.SearchStrategy[bytes]:
    """A file that held this document: a value changed, one missing, one too many, or no JSON any more."""
    good = json.dumps(document).encode()
    changed = st.builds(
        lambda path, action, value: json.dumps(_changed(document, path, action, value)).encode(),
        st.sampled_from(list(_places(document))),
        st.sampled_from(["replace", "replace", "replace", "delete", "add"]),
        JSON_VALUES,
    )
    broken = st.sampled_from(
        [
            *(
                b"",
                b" ",
                b"null",
                b"[]",
                b"{}",
                b"{",
                b'"x"',
                b"3",
                b"\xff\xfe{}",
                b"\xef\xbb\xbf" + good,
                b"\0" * 9,
            ),
            *(
                b"[" * 100_000,
                b'{"a":' * 5000,
                good + b"}",
                good * 2,
                good[:-1],
                good.replace(b'": ', b'": NaN, "x": ', 1),
            ),
            b'{"a": 1, "a": 2}',
        ]
    )
    cut = st.integers(0, len(good) - 1).map(lambda end: good[:end])
    return st.one_of(changed, changed, changed, broken, cut).map(Bytes)


def damaged_tensors(good: bytes) -> st.SearchStrategy[bytes]:
    """A safetensors file: a tensor gone, renamed, of another type, shape or value; or none at all."""
    tensors = safetensors.torch.load(good)
    about = json.loads(good[8 : 8 + struct.unpack("<Q", good[:8])[0]]).get("__metadata__")
    names = sorted(tensors)

    def saved(changed: dict[str, Tensor]) -> bytes:
        return safetensors.torch.save({name: x.contiguous() for name, x in changed.items()}, about)

    def without(name: str) -> bytes:
        return saved({other: tensor for other, tensor in tensors.items() if other != name})

    def renamed(name: str) -> bytes:
        return saved({f"{other}x" if other == name else other: tensor for other, tensor in tensors.items()})

    def cast(name: str, dtype: torch.dtype) -> bytes:
        return saved(tensors | {name: tensors[name].to(dtype)})

    def filled(name: str, value: float) -> bytes:
        tensor = tensors[name].clone()
        return saved(tensors | {name: tensor.fill_(value) if tensor.is_floating_point() else tensor.fill_(0)})

    def shaped(name: str, how: Callable[[Tensor], Tensor]) -> bytes:
        return saved(tensors | {name: how(tensors[name]).clone()})

    name = st.sampled_from(names)
    dtypes = st.sampled_from(
        [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    )
    hows = st.sampled_from(
        [lambda t: t[None], lambda t: t.flatten(), lambda t: t.flatten()[:1], lambda t: t.flatten()[:0]]
    )
    values = st.sampled_from([0.0, float("nan"), float("inf"), 1e30, -1.0])
    broken = st.sampled_from(
        [
            *(
                b"",
                b"{}",
                b"not tensors",
                b"\xff" * 64,
                struct.pack("<Q", 2**62) + b"{}",
                struct.pack("<Q", 2) + b"{}",
            ),
            *(good + b"x", good[:-1], good[:8], saved({}), saved(tensors | {"unknown": torch.zeros(2)})),
            struct.pack("<Q", 100_000) + b"[" * 100_000,
        ]
    )
    return st.one_of(
        *(
            name.map(without),
            name.map(renamed),
            st.builds(cast, name, dtypes),
            st.builds(filled, name, values),
        ),
        *(st.builds(shaped, name, hows), broken, st.integers(0, len(good) - 1).map(lambda end: good[:end])),
    ).map(Bytes)


class _Odd:
    """An object of no use."""

    def __repr__(self) -> str:
        return "<odd>"


PYTHON_VALUES = st.one_of(
    st.sampled_from(
        [
            *(None, True, False, *WHOLE, *NUMBERS, *TEXTS, 1j, b"", b"x", _Odd(), Ellipsis),
            *([], [1], ["x"], [None], [[1, 2], [3]], (), (1, 2), {}, {"a": 1}, {"kind": "x"}, {1}, range(3)),
            *(torch.zeros(()), torch.zeros(2), torch.zeros(0), torch.zeros(2, 3, dtype=torch.int64)),
            *(torch.zeros(1, 2, 3, 4), torch.zeros(2, 3, device="meta"), torch.ones(2, 2, dtype=torch.bool)),
            *(np.zeros(3), np.int64(3), np.float32(0.5), np.array("x"), torch.float32, torch.device("cpu")),
        ]
    ),
    words,
    st.integers(-5, 9),
    st.floats(-2.0, 2.0),
)


def changed_tensor(good: Tensor) -> st.SearchStrategy[Any]:
    """A tensor like this one, but for its type, its shape, its values or its device."""
    dtypes = [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int32,
        torch.int64,
        torch.bool,
    ]
    hows: list[Callable[[Tensor], Any]] = [
        lambda t: t[None],
        lambda t: t[:1],
        lambda t: t[:0],
        lambda t: t.flatten(),
        lambda t: t[..., :1],
        lambda t: t[..., :0],
        lambda t: torch.cat([t, t], dim=-1),
        lambda t: t.transpose(0, -1),
        lambda t: t.to("meta"),
        lambda t: t.tolist(),
        lambda t: t.numpy(),
        lambda t: torch.full_like(t, 1) if t.dtype == torch.bool else torch.full_like(t, 10**6),
        lambda t: torch.full_like(t, -1) if t.dtype != torch.bool else ~t,
        lambda t: torch.full_like(t, float("nan")) if t.is_floating_point() else t,
        lambda t: torch.full_like(t, float("inf")) if t.is_floating_point() else t,
    ]
    return st.one_of(
        st.sampled_from(dtypes).map(good.to),
        st.sampled_from(hows).map(lambda how: how(good)),
    )

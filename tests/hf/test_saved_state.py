"""A state in a file is the state, for the model that made it, and nothing else in a file is one."""

import copy
import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils import _pytree as pytree

import unimatrix
from unimatrix.errors import UserError
from unimatrix.hf import load_state, save_state
from unimatrix.hf.saved_state import sha256_of
from unimatrix.models import Parts, build, peer_presets, select_batch, state_bytes
from unimatrix.ops.token_store import TokenStoreState
from unimatrix.ops.token_store.reading import compact
from unimatrix.ops.token_store.state import REGISTERS

IDS = torch.randint(0, 53, (2, 40), generator=torch.Generator().manual_seed(1))
MORE = IDS.flip(1)[:, :9]
SMALL = {"d_model": 16, "num_heads": 2}


@pytest.fixture
def following():
    """A model with an automaton's state in it, and what its votes have done, beside others."""
    return model_of("unimatrix-rosa-exact", max_positions=None, vote=True, **SMALL)


def model_of(name, *, seed=0, **changes):
    torch.manual_seed(seed)
    return build(name, **changes).eval()


def compacted(state):
    return pytree.tree_map(
        lambda x: compact(x) if isinstance(x, TokenStoreState) else x,
        state,
        is_leaf=lambda x: isinstance(x, TokenStoreState),
    )


def leaves(state):
    return pytree.tree_leaves(state)


def same(one, other):
    """Of an automaton what it has read, not its tree."""
    pairs = list(zip(leaves(compacted(one)), leaves(compacted(other)), strict=True))
    return all(a is b is None or torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", [*unimatrix.presets(), *peer_presets()])
@pytest.mark.parametrize("how", ["plain", "padded", "nothing", "float64"])
@torch.no_grad()
def test_a_state_comes_back_as_it_was(name, how, tmp_path):
    model, mask = model_of(name, max_positions=None), None
    model = model.double() if how == "float64" else model
    if how == "padded":
        mask = torch.arange(40) >= torch.tensor([[0], [7]])
    ids = IDS[:, :0] if how == "nothing" else IDS
    logits, state = model(ids, mask=mask)
    save_state(state, tmp_path / "a.state", model, logits=None if how == "nothing" else logits[:, -1])
    assert [path.name for path in tmp_path.iterdir()] == ["a.state"]
    again, kept_logits = load_state(tmp_path / "a.state", model, batch_size=2)
    assert same(state, again)
    assert type(again) is type(state)
    assert (kept_logits is None) if how == "nothing" else torch.equal(kept_logits, logits[:, -1])
    assert torch.equal(model(MORE, again)[0], model(MORE, state)[0])
    with safe_open(tmp_path / "a.state", framework="pt") as file:
        assert file.get_tensor("position").tolist() == state.position.tolist()
    assert (tmp_path / "a.state").stat().st_size < state_bytes(state) + 20_000


@torch.no_grad()
def test_of_an_automaton_its_tokens_are_kept(following, tmp_path):
    path = tmp_path / "state"
    mask = torch.arange(40) >= torch.tensor([[0], [7]])
    _, state = following(IDS, mask=mask)
    expected = following(MORE, state)[0]
    save_state(state, path, following)  # an older handle by now: its store went on
    again, _ = load_state(path, following)
    assert again.parts["routing"].read.store.shape == (2, 40)
    assert torch.equal(following(MORE, again)[0], expected)
    # twice, and by another batch
    assert torch.equal(following(MORE, again)[0], expected)
    row = select_batch(again, torch.tensor([1]))
    assert torch.allclose(following(MORE[1:], row)[0], expected[1:], atol=1e-6)
    save_state(again, tmp_path / "second", following)
    one, other = load_file(tmp_path / "second"), load_file(path)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_whose_ops_compute_in_another_form_is_the_same(tmp_path):
    one, other = (model_of("unimatrix-core", **SMALL, backend=backend) for backend in ("auto", "reference"))
    state = one(IDS)[1]
    save_state(state, tmp_path / "state", one)
    assert same(load_state(tmp_path / "state", other)[0], state)


def test_parts_in_another_order_are_another_model(tmp_path):
    models = []
    for names in (("first", "second"), ("second", "first")):
        config = unimatrix.presets()["unimatrix-core"]
        parts = dict.fromkeys(names, config.layers[0]["feed_forward"])
        layer = {"mixer": config.layers[0]["mixer"]} | parts
        models.append(build(dataclasses.replace(config, layers=(Parts(layer),), order=(0,))))
    models[1].load_state_dict(models[0].state_dict())
    save_state(models[0](IDS)[1], tmp_path / "state", models[0])
    load_state(tmp_path / "state", models[0])
    with pytest.raises(UserError, match=r"a state of another model, expected parts, in order = \['layers"):
        load_state(tmp_path / "state", models[1])


def altered(path, change, **metadata):
    """The file with other tensors, whose checksum it has."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        about = {**file.metadata(), **metadata}
    change(tensors)
    save_file(tensors, path, about | {"tensors": sha256_of(tensors)} if "tensors" in about else about)


def filled(name, value):
    return lambda tensors: tensors[name].reshape(-1)[:1].fill_(value)


def put(name, value):
    return lambda tensors: tensors.__setitem__(name, value)


STORE, LENGTH, REGISTER = (f"parts.routing.read.{name}" for name in ("store", "length", "registers"))


OTHER_NUMBERS = [
    *(filled(STORE, value) for value in (-1, 259, 2**31 - 1)),
    *(filled(LENGTH, value) for value in (39, 41, -1, 2**62)),
    *(
        lambda tensors, at=at, value=value: tensors[REGISTER][:, at].fill_(value)
        for at in range(REGISTERS)
        for value in (-1, 3, 2**62, -(2**63))
    ),
    *(put(STORE, torch.zeros(2, size, dtype=torch.int32)) for size in (0, 39, 41)),
    *(put(STORE, torch.zeros(shape, dtype=torch.int32)) for shape in ((3, 40), (80,))),
    put(STORE, torch.zeros(2, 40, dtype=torch.int64)),
    put(LENGTH, torch.zeros(3, dtype=torch.int64)),
    put(REGISTER, torch.zeros(2, REGISTERS - 1, dtype=torch.int64)),
    put(REGISTER, torch.zeros(2, REGISTERS, dtype=torch.int32)),
]


def test_an_automaton_with_other_numbers_is_refused(following, tmp_path):
    path = tmp_path / "state"
    save_state(following(IDS)[1], path, following)
    whole = path.read_bytes()
    for change in OTHER_NUMBERS:
        path.write_bytes(whole)
        altered(path, change)
        with pytest.raises(UserError, match=r": expected tokens that were read, got"):
            load_state(path, following)


@torch.no_grad()
def test_what_its_votes_have_done_may_be_any_numbers(following, tmp_path):
    """They are nobody's index: whatever a file says of them, there are logits."""
    path = tmp_path / "state"
    save_state(following(IDS)[1], path, following)
    for wrong in (-1, 14, 258, 2**62):
        altered(path, put("parts.routing.vote.pointed.vector", torch.full((2, 2), wrong)))
        found, _ = load_state(path, following)
        assert following(MORE, found)[0].isfinite().all()


def test_files_that_are_none_of_this_models(tmp_path):
    model = model_of("unimatrix-sparse-pointer", **SMALL)
    path = tmp_path / "state"
    logits, state = model(IDS)
    save_state(state, path, model, logits=logits[:, -1])
    whole = path.read_bytes()

    def complaint(*, of=model, **settings):
        with pytest.raises(UserError) as caught:
            load_state(path, of, **settings)
        text = str(caught.value)
        assert text.startswith(f"{path}: ")
        assert "\n" not in text
        path.write_bytes(whole)
        return text.removeprefix(f"{path}: ")

    assert complaint(of=model_of("unimatrix-sparse-pointer", **SMALL, seed=1)) == (
        "a state of other weights, expected one that this very model has made"
    )
    assert complaint(of=model_of("unimatrix-sparse-pointer", **SMALL, num_slots=8)) == (
        "a state of another model, expected parts.memory.num_slots = 8, got 32"
    )
    assert "a state of another model, expected" in complaint(of=model_of("unimatrix-core"))
    assert "a state of another model, expected" in complaint(of=model_of("mamba2"))
    assert complaint(of=model_of("unimatrix-sparse-pointer", **SMALL).double()) == (
        "a state of another model, expected dtype float64, got 'float32'"
    )
    assert complaint(batch_size=1) == "expected batch_size 1, got a state of 2"
    for damage in (whole[:-7], whole[:100], whole[:4], b"", whole + b"x", b"{}" * 99, b"\xff" * 99):
        path.write_bytes(damage)
        assert complaint().startswith("expected a saved state, cut short or no safetensors file (")
    save_file({"position": torch.zeros(2)}, path)
    assert complaint() == "expected a saved state in format 1, got another safetensors file"
    for changed, said in (
        ({"unimatrix_state": "2"}, "expected a saved state in format 1, got one in format '2'"),
        ({"config": "{"}, "config: expected JSON"),
        ({"config": "[]"}, "model config: expected"),
        ({"config": '{"d_model": -1}'}, "model config: d_model: expected"),
        ({"versions": "{}"}, "a state of another model, expected versions {"),
        ({"weights": ""}, "a state of other weights"),
    ):
        altered(path, lambda tensors: None, **changed)
        assert complaint().startswith(said)
    path.unlink()
    with pytest.raises(UserError, match=r"state: expected a file, missing$"):
        load_state(path, model)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x.pop("position"), "expected a tensor position, got none"),
        (put("more", torch.zeros(2)), "expected the tensors of this model's state alone, got 'more' too"),
        (put("position", torch.zeros(2)), "state.position: expected int64, got float32"),
        (put("position", torch.zeros(2, 1, dtype=torch.int64)), "state: expected one that a language model"),
        (filled("position", -1), "position: expected whole numbers from 0 to 4611686018427387904, got -1"),
        (filled("position", 2**62 + 1), "position: expected whole numbers from 0 to 4611686018427387904"),
        (filled("position", 129), "expected at most 128 positions, got 129"),
        (put("logits", torch.zeros(2, 258)), "logits: expected floating point [2, 259], got"),
        (put("logits", torch.zeros(2, 259, dtype=torch.int64)), "logits: expected floating point [2, 259]"),
        (put("logits", torch.zeros(2, 259).to(torch.float8_e4m3fn)), "logits: expected floating point"),
        (filled("logits", torch.nan), "logits: expected numbers, got NaN"),
        *(
            (filled("parts.memory.slots.keys", value), "parts.memory.slots.keys: expected finite numbers")
            for value in (torch.nan, torch.inf, -torch.inf)
        ),
        *(
            (filled("parts.memory.slots.token_ids", wrong), f"parts.memory.slots.token_ids: expected whole"
             f" numbers from -1 to 258, got {wrong}")
            for wrong in (-2, 259, 2**62)
        ),
        (
            filled("parts.memory.slots.ages", -2),
            f"parts.memory.slots.ages: expected whole numbers from -1 to {2**62}, got -2",
        ),
        (
            put("parts.memory.previous.present", torch.ones(2, dtype=torch.uint8)),
            "state.parts.memory.previous.present: expected bool, got uint8",
        ),
        (
            lambda x: x.update({n: t[:1].clone() for n, t in x.items() if n.startswith("parts")}),
            "state.parts.memory.slots.keys: expected as many rows as the inputs, 2, got 1",
        ),
    ],
)  # fmt: skip
def test_tensors_that_no_state_has(tmp_path, change, said):
    model = model_of("unimatrix-sparse-pointer", **SMALL)
    path = tmp_path / "state"
    logits, state = model(IDS)
    save_state(state, path, model, logits=logits[:, -1])
    altered(path, change)
    with pytest.raises(UserError) as caught:
        load_state(path, model)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "\n" not in str(caught.value)


def test_a_byte_that_is_no_bool_becomes_one(tmp_path):
    model, path = model_of("unimatrix-sparse-pointer", **SMALL), tmp_path / "state"
    save_state(model(IDS)[1], path, model)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = {name: text for name, text in file.metadata().items() if name != "tensors"}
    save_file(tensors, path, about)  # as older files are, without a checksum of their own
    assert same(load_state(path, model)[0], model(IDS)[1])
    whole = path.read_bytes()
    begins = 8 + int.from_bytes(whole[:8], "little")
    at = begins + json.loads(whole[8:begins])["parts.memory.previous.present"]["data_offsets"][0]
    path.write_bytes(whole[:at] + b"\x02" + whole[at + 1 :])
    present = load_state(path, model)[0].parts["memory"].previous.present
    assert present.view(torch.uint8).tolist() == [1, 1]


@pytest.mark.parametrize("bit", [0, 7])
def test_a_changed_bit_of_any_tensor_is_found(following, bit, tmp_path):
    path = tmp_path / "state"
    logits, state = following(IDS)
    save_state(state, path, following, logits=logits[:, -1])
    whole = path.read_bytes()
    begins = 8 + int.from_bytes(whole[:8], "little")
    places = {n: x["data_offsets"] for n, x in json.loads(whole[8:begins]).items() if n != "__metadata__"}
    assert {"logits", "position", STORE} < places.keys()
    for first, end in places.values():
        for at in {begins + first, begins + end - 1} if first < end else ():
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            with pytest.raises(UserError, match=r"state: wrong checksum, the file was changed or damaged$"):
                load_state(path, following)


def test_keys_and_values_of_different_lengths(tmp_path):
    model, path = model_of("transformer", **SMALL), tmp_path / "state"
    save_state(model(IDS)[1], path, model)
    altered(path, lambda x: x.update({"steps.0.mixer.v": x["steps.0.mixer.v"][:, :, 1:].contiguous()}))
    with pytest.raises(UserError, match=r"steps\.0\.mixer\.[kv]: expected the length of its part, \d+, got"):
        load_state(path, model)


def test_what_cannot_be_saved(tmp_path):
    model = model_of("unimatrix-core", **SMALL)
    logits, state = model(IDS)
    path = tmp_path / "state"
    for given, said in (
        ({"state": None}, "state: expected one that a language model returned"),
        ({"state": model_of("unimatrix-rosa", **SMALL)(IDS)[1]}, "state.parts: expected the parts"),
        ({"logits": logits}, "logits: expected floating point"),
        ({"logits": logits[:, -1].to("meta")}, "logits: expected numbers, got none"),
        ({"model": torch.nn.Linear(1, 1)}, "model: expected a LanguageModel or a Mamba2, got a Linear"),
        ({"model": None}, "model: expected a LanguageModel or a Mamba2, got a NoneType"),
        (
            {"model": copy.deepcopy(model).to("meta")},
            "model: expected weights with values, got some on the meta",
        ),
        ({"path": f"{tmp_path}/\0"}, "path: expected one in UTF-8 and without NUL"),
        ({"path": f"{tmp_path}/\udcff"}, "path: expected one in UTF-8 and without NUL"),
        ({"path": tmp_path / "none" / "state"}, "expected a folder that is there"),
        ({"path": tmp_path}, "expected a file, got a folder"),
        ({"path": tmp_path / ("x" * 255)}, "the state cannot be written"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            save_state(**({"state": state, "path": path, "model": model} | given))
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["compiled", "twice"])
def test_a_compiled_model_is_the_model_inside(how, tmp_path):
    model, path = model_of("unimatrix-core", **SMALL), tmp_path / "state"
    compiled = torch.compile(model, backend="eager")
    if how == "twice":
        compiled = torch.nn.Module()
        compiled.module = torch.compile(model, backend="eager")  # as DistributedDataParallel holds it
    state = model(IDS)[1]
    save_state(state, path, compiled)
    assert same(load_state(path, model)[0], state)
    assert same(load_state(path, compiled)[0], state)
    with pytest.raises(UserError, match="model: expected weights with values, got some on the meta device"):
        load_state(path, copy.deepcopy(model).to("meta"))


def test_a_state_takes_the_place_of_nothing_but_a_state(tmp_path):
    model, path = model_of("unimatrix-core", **SMALL), tmp_path / "file"
    state = model(IDS)[1]
    save_file({"position": torch.zeros(2)}, tmp_path / "weights")
    for data in (b"a text", (tmp_path / "weights").read_bytes(), b"\xff" * 99):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"file: expected a saved state to replace, .* got another one$"):
            save_state(state, path, model)
        assert path.read_bytes() == data
    path.write_bytes(b"")
    for ids in (IDS, MORE):  # in the place of an empty file, and of another state
        save_state(model(ids)[1], path, model)
        assert load_state(path, model)[0].position.tolist() == [ids.shape[1]] * 2

"""torch.export with lengths and batches of any size; the state as a nest that torch takes apart."""

import io

import pytest
import torch
from small_models import PRESETS, small_model
from tolerances import assert_close
from torch.export import Dim, export
from torch.utils import _pytree as pytree

from unimatrix.hf import UniMatrixCache
from unimatrix.hf.cache import UniMatrixOutput
from unimatrix.models import state_bytes

IDS = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(0))
BATCH, LENGTH = Dim("batch", min=2, max=64), Dim("length", min=3, max=128)
THREE = ("unimatrix-core", "transformer", "unimatrix-sparse-pointer")
OTHERS = [(2, 12), (5, 3), (3, 101)]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield
    torch._dynamo.reset()


@pytest.mark.parametrize(("name", "strict"), [(name, False) for name in PRESETS] + [(n, True) for n in THREE])
def test_one_graph_reads_every_length_and_batch(name, strict):
    model = small_model(name)
    program = export(model, (IDS,), dynamic_shapes=({0: BATCH, 1: LENGTH},), strict=strict).module()
    for shape in OTHERS:
        ids = torch.randint(0, 256, shape)
        got, state = program(ids)
        expected, right = model(ids)
        assert_close(got, expected, "logits")
        assert type(state) is type(right)
        # an automaton's room is that of any input in a graph, and that of its text outside
        if not any(part.appends for part in model.config.all_parts.values()):
            assert state_bytes(state) == state_bytes(right)


def test_a_graph_of_fixed_shapes(preset):
    model = small_model(preset)
    assert_close(export(model, (IDS,)).module()(IDS)[0], model(IDS)[0], "logits")


@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")  # torch's own loading
@pytest.mark.parametrize("name", THREE)
def test_the_adapter_with_padding_and_state_is_saved_and_loaded(make_model, name):
    model = make_model(name)
    shapes = {"input_ids": {0: BATCH, 1: LENGTH}, "attention_mask": {0: BATCH, 1: LENGTH}}
    given = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    file = io.BytesIO()
    torch.export.save(export(model, (), given, dynamic_shapes=shapes), file)
    file.seek(0)
    program = torch.export.load(file).module()
    for shape in OTHERS:
        ids, mask = torch.randint(0, 256, shape), torch.ones(shape, dtype=torch.int64)
        mask[0, :2] = 0
        got, expected = (read(input_ids=ids, attention_mask=mask) for read in (program, model))
        assert type(got) is UniMatrixOutput
        assert_close(got.logits[mask.bool()], expected.logits[mask.bool()], "logits")
        on = model(ids[:, :1], cache=got.cache), model(ids[:, :1], cache=expected.cache)
        assert on[0].cache.get_seq_length() == on[1].cache.get_seq_length() == shape[1] + 1
        assert_close(on[0].logits, on[1].logits, "logits")


def test_a_graph_that_goes_on_from_a_state(make_model, preset):
    model = make_model(preset)
    cache = model(IDS).cache
    program = export(model, (), {"input_ids": IDS[:, :1], "cache": copied(cache)}).module()
    other = model(torch.randint(0, 256, (2, 12))).cache
    got = program(input_ids=IDS[:, :1], cache=copied(other))
    expected = model(IDS[:, :1], cache=copied(other))
    assert_close(got.logits, expected.logits, "logits")
    assert got.cache.get_seq_length() == 13


def copied(cache: UniMatrixCache) -> UniMatrixCache:
    return pytree.tree_map_only(torch.Tensor, torch.clone, cache)


def test_the_state_comes_apart_and_together(make_model, preset):
    model = make_model(preset)
    cache = model(IDS).cache
    leaves, structure = pytree.tree_flatten(cache)
    again = pytree.tree_unflatten(leaves, structure)
    assert type(again) is UniMatrixCache
    assert again.get_seq_length() == 12
    assert sum(leaf.numel() * leaf.element_size() for leaf in leaves if torch.is_tensor(leaf)) == state_bytes(
        cache.state
    )
    places = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(cache)[0]]
    assert len(set(places)) == len(places) == len(leaves)
    assert ".state.position" in places
    expected = model(IDS, cache=cache).logits
    assert torch.equal(model(IDS, cache=again).logits, expected)
    spec = pytree.treespec_loads(pytree.treespec_dumps(structure))
    assert torch.equal(model(IDS, cache=pytree.tree_unflatten(leaves, spec)).logits, expected)


def test_what_it_takes_to_go_back_comes_along(make_model):
    model = make_model("unimatrix-core")
    cache = UniMatrixCache()
    cache.activate_past_recording()
    model(IDS, cache=cache)
    again = copied(cache)
    for some in (cache, again):
        some.crop(-5)
    assert torch.equal(model(IDS[:, 7:], cache=again).logits, model(IDS[:, 7:], cache=cache).logits)
    again.crop(-12)


@pytest.mark.parametrize("name", THREE)
def test_torch_func_and_torch_compile_pass_it_through(make_model, name):
    model = make_model(name)
    expected = model(IDS[:, 5:], cache=model(IDS[:, :5]).cache)
    weights = dict(model.named_parameters())
    before = torch.func.functional_call(model, weights, (IDS[:, :5],)).cache
    got = torch.func.functional_call(model, weights, (IDS[:, 5:],), {"cache": before})
    assert torch.equal(got.logits, expected.logits)
    compiled = torch.compile(model, backend="eager")
    got = compiled(IDS[:, 5:], cache=compiled(IDS[:, :5]).cache)
    assert_close(got.logits, expected.logits, "logits")
    assert got.cache.get_seq_length() == 12

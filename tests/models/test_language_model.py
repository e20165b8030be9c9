"""One call for prefill and decoding: pieces equal the whole, padding changes nothing, states carry on."""

import copy
import pickle

import pytest
import torch
from tolerances import assert_close
from trained_size import PRESETS, random_ids, trained_size

import unimatrix
from unimatrix.errors import UserError
from unimatrix.models import language_model, preset_config, select_batch, setting, state_bytes

RECURRENT_FFN = ("recurrent-ffn", "recurrent-ffn-readout", "recurrent-ffn-hybrid")
GROWING = ("transformer", "unimatrix-assoc", *RECURRENT_FFN)
RECURRENT = tuple(name for name in PRESETS if preset_config(name).recurrent)
WITH_FORMS = tuple(name for name in PRESETS if setting(preset_config(name), "backend") is not None)
TOKEN_BY_TOKEN = (*range(1, 13), *range(88, 100))  # of 100, from the first one on, and after a longer piece


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("max_positions", [128, None])
@pytest.mark.parametrize("cuts", [(1,), (60,), (1, 2, 3, 64, 64, 99), TOKEN_BY_TOKEN], ids=len)
def test_pieces_equal_the_whole(name, max_positions, cuts):
    model = trained_size(name, max_positions=max_positions)
    ids = random_ids(3, 100)
    whole, last = model(ids)
    state, logits = None, []
    for start, stop in zip((0, *cuts), (*cuts, 100), strict=True):
        piece, state = model(ids[:, start:stop], state)
        logits.append(piece)
    assert_close(torch.cat(logits, 1), whole, "logits")
    after, _ = model(ids[:, :5], state) if max_positions is None else model(ids[:, :5], last)
    assert_close(after, model(ids[:, :5], last)[0], "logits")


@pytest.mark.parametrize("name", PRESETS)
def test_left_padding_changes_nothing(name):
    model = trained_size(name)
    lengths = (40, 33, 1)
    ids = torch.full((3, 40), 258)
    mask = torch.zeros(3, 40, dtype=torch.bool)
    for row, length in enumerate(lengths):
        ids[row, 40 - length :] = random_ids(3, 40)[row, :length]
        mask[row, 40 - length :] = True
    logits, state = model(ids, mask=mask)
    assert torch.isfinite(logits).all()
    more = random_ids(3, 6)
    continued, _ = model(more[:, :1], state)
    continued_many, _ = model(more, state)
    for row, length in enumerate(lengths):
        alone, alone_state = model(ids[row : row + 1, 40 - length :])
        assert_close(logits[row : row + 1, 40 - length :], alone, "logits")
        expected, _ = model(more[row : row + 1], alone_state)
        assert_close(continued_many[row : row + 1], expected, "logits")
        assert_close(continued[row : row + 1], expected[:, :1], "logits")


@pytest.mark.parametrize("name", PRESETS)
def test_holes_in_the_mask_are_no_tokens(name):
    model = trained_size(name)
    ids = random_ids(1, 30)
    mask = torch.rand(1, 30, generator=torch.Generator().manual_seed(2)) > 0.4
    logits, state = model(ids, mask=mask)
    dense, dense_state = model(ids[mask][None])
    assert_close(logits[mask][None], dense, "logits")
    assert_close(model(ids[:, :4], state)[0], model(ids[:, :4], dense_state)[0], "logits")
    # a mask in a continuation, after a state that had none, and the reverse
    piece, _ = model(ids, dense_state, mask=mask)
    expected, _ = model(ids[mask][None], dense_state)
    assert_close(piece[mask][None], expected, "logits")


@pytest.mark.parametrize("name", PRESETS)
def test_no_position_sees_what_follows(name):
    model = trained_size(name)
    ids = random_ids(2, 50)
    changed = ids.clone()
    changed[:, 30:] = (changed[:, 30:] + 7) % 256
    before, after = model(ids)[0], model(changed)[0]
    assert torch.equal(before[:, :30], after[:, :30])
    assert not torch.allclose(before[:, 30:], after[:, 30:])


@pytest.mark.parametrize("name", PRESETS)
def test_state_is_passed_not_changed(name):
    model = trained_size(name)
    _, state = model(random_ids(2, 10))
    first, _ = model(random_ids(2, 5), state)
    second, _ = model(random_ids(2, 5), state)
    assert torch.equal(first, second)
    _, empty = model(random_ids(2, 0), state)
    assert torch.equal(model(random_ids(2, 5), empty)[0], first)
    fresh = model.init_state(2)
    assert_close(model(random_ids(2, 5), fresh)[0], model(random_ids(2, 5))[0], "logits")


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_states_have_one_size(name):
    model = trained_size(name, max_positions=None)
    sizes = {length: state_bytes(model(random_ids(1, length))[1]) for length in (1, 100, 3000)}
    assert len(set(sizes.values())) == 1
    # rows of 16 float32 numbers in each of four heads: a matrix, or a sum and the pair memory or two slots
    rows = {"triple-latent": 1 + 16, "triple-slot": 1 + 2, "triple-hybrid": 1 + 16}.get(name, 16)
    # 32 slots of key, value, strength (float32), id and age (int64), and the last key, or none yet (1 byte)
    slots = 32 * ((16 + 16 + 1) * 4 + 2 * 8) + 16 * 4 + 1
    routing = 8  # the last token
    beside = {
        "unimatrix-rosa": routing,
        "unimatrix-discovery": routing,
        "unimatrix-sparse-pointer": slots,
        "triple-hybrid": 4 * 64 * 4,  # the last four tokens' embeddings
    }
    assert sizes[1] == 3 * 4 * rows * 16 * 4 + 8 + beside.get(name, 0)  # 8: the position


def test_the_transformers_cache_grows():
    model = trained_size("transformer", max_positions=None)
    assert state_bytes(model(random_ids(1, 100))[1]) == 3 * 2 * 100 * 64 * 4 + 8
    assert not model.config.recurrent


def test_assocs_memory_grows():
    model = trained_size("unimatrix-assoc", max_positions=None)
    sizes = [state_bytes(model(random_ids(1, length))[1]) for length in (101, 201)]
    # a key and a value of 64 float32 numbers for each further token and depth step
    assert sizes[1] - sizes[0] == 3 * 2 * 100 * 64 * 4
    assert not model.config.recurrent


@pytest.mark.parametrize(
    ("name", "width"), [("recurrent-ffn", 128), ("recurrent-ffn-readout", 128), ("recurrent-ffn-hybrid", 64)]
)
def test_recurrent_ffns_carry_the_cache_and_their_own_state(name, width):
    """The key-value cache grows with the text; beside it one float32 vector a layer, of one size."""
    model = trained_size(name, max_positions=None)
    for length in (1, 100):
        _, state = model(random_ids(2, length))
        assert [step["mixer"].k.shape for step in state.steps] == [(2, 4, length, 16)] * 3
        memories = [step["feed_forward"].s for step in state.steps]
        assert [(s.shape, s.dtype) for s in memories] == [((2, width), torch.float32)] * 3
    assert not model.config.recurrent
    # neither alone continues the text
    whole, _ = model(random_ids(2, 100))
    _, state = model(random_ids(2, 100)[:, :99])
    last = random_ids(2, 100)[:, 99:]
    assert_close(model(last, state)[0], whole[:, 99:], "logits")
    empty = model.init_state(2)
    for part in ("mixer", "feed_forward"):
        steps = zip(state.steps, empty.steps, strict=True)
        broken = state._replace(steps=tuple(step | {part: fresh[part]} for step, fresh in steps))
        assert not torch.allclose(model(last, broken)[0], whole[:, 99:], atol=1e-3)


def test_the_local_convolution_goes_past_the_blocks_to_the_head():
    hybrid = trained_size("triple-hybrid")
    torch.nn.init.normal_(hybrid.convolution.mix.weight, std=0.3)
    plain = trained_size("triple-latent")
    plain.load_state_dict({key: x for key, x in hybrid.state_dict().items() if "convolution" not in key})
    ids = random_ids(2, 20)
    local, _ = hybrid.convolution(hybrid.embedding(ids) + hybrid.positions.weight[:20])
    assert_close(hybrid(ids)[0], plain(ids)[0] + local @ hybrid.embedding.weight.mT, "logits")


@pytest.mark.parametrize("name", PRESETS)
def test_select_batch_gathers_rows(name):
    model = trained_size(name)
    ids = random_ids(3, 20)
    mask = torch.ones(3, 20, dtype=torch.bool)
    mask[0, :4] = False
    _, state = model(ids, mask=mask)
    index = torch.tensor([2, 0, 0, 1])
    chosen = select_batch(state, index)
    expected = model(random_ids(3, 4)[index], chosen)[0]
    for row, source in enumerate(index.tolist()):
        alone = select_batch(state, torch.tensor([source]))
        got, _ = model(random_ids(3, 4)[source : source + 1], alone)
        assert_close(got, expected[row : row + 1], "logits")


@pytest.mark.parametrize("name", WITH_FORMS)
@pytest.mark.parametrize("backend", ["chunked", "compiled"])
def test_backends_agree(name, backend):
    reference, fast = trained_size(name, backend="reference"), trained_size(name, backend=backend)
    assert_close(fast(random_ids(2, 70))[0], reference(random_ids(2, 70))[0], "logits")


@pytest.mark.parametrize("name", RECURRENT)
def test_streams_of_any_length(name):
    model = trained_size(name, max_positions=None)
    logits, _ = model(random_ids(1, 5000))
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("max_positions", [100, None])
def test_reading_in_pieces_changes_nothing(name, max_positions, monkeypatch):
    model = trained_size(name, max_positions=max_positions)
    ids = random_ids(3, 100)
    mask = torch.ones(3, 100, dtype=torch.bool)
    mask[0, :13] = False
    for given in (None, mask):
        with torch.enable_grad():  # with gradients a text is always read whole
            whole, state = model(ids, mask=given)
        with torch.no_grad(), monkeypatch.context() as patch:
            patch.setattr(language_model, "PIECE_TOKENS", 21)  # 7 of 100 positions at a time
            pieces, state_of_pieces = model(ids, mask=given)
        assert_close(pieces, whole, "logits")
        assert torch.equal(state_of_pieces.position, state.position)
        if max_positions is None:
            more = [model(ids[:, :4], carried)[0] for carried in (state_of_pieces, state)]
            assert_close(*more, "logits")


@pytest.mark.parametrize("name", PRESETS)
def test_positions_end_with_a_clear_error(name):
    model = trained_size(name, max_positions=16)
    _, state = model(random_ids(1, 16))
    for arguments in ((random_ids(1, 17),), (random_ids(1, 1), state)):
        with pytest.raises(unimatrix.UserError, match="at most max_positions = 16 tokens, got 17"):
            model(*arguments)
    # padding is no position
    mask = torch.ones(1, 20, dtype=torch.bool)
    mask[:, :4] = False
    model(random_ids(1, 20), mask=mask)


@pytest.mark.parametrize("bad", [-1, 259, 10**6])
def test_ids_outside_the_vocabulary(bad):
    ids = random_ids(1, 5)
    ids[0, 3] = bad
    with pytest.raises(unimatrix.UserError, match=f"token ids from 0 to 258, got {bad}"):
        unimatrix.build("unimatrix-core")(ids)


def test_wrong_shapes_are_named():
    model = unimatrix.build("unimatrix-core")
    with pytest.raises(unimatrix.UserError, match=r"input_ids: expected shape \[batch, time\], got \[5\]"):
        model(torch.zeros(5, dtype=torch.int64))
    with pytest.raises(unimatrix.UserError, match="mask: expected shape"):
        model(torch.zeros(1, 5, dtype=torch.int64), mask=torch.ones(1, 4, dtype=torch.bool))


@pytest.mark.parametrize("name", PRESETS)
def test_dropout_works_in_training_alone(name):
    torch.manual_seed(0)
    model = unimatrix.build(name, dropout=0.5)
    ids = random_ids(1, 10)
    assert not torch.equal(model(ids)[0], model(ids)[0])
    model.eval()
    assert torch.equal(model(ids)[0], model(ids)[0])


@pytest.mark.parametrize("name", [*RECURRENT, *RECURRENT_FFN])
def test_bfloat16_model_keeps_a_float32_state(name):
    model = trained_size(name)
    exact = model(random_ids(2, 60))[0]
    logits, state = model.bfloat16()(random_ids(2, 60))
    assert logits.dtype == torch.bfloat16
    # a key-value cache has the model's own dtype
    kept = [step["feed_forward" if name in RECURRENT_FFN else "mixer"] for step in state.steps]
    assert {part.dtype for layer in kept for part in layer if part is not None} == {torch.float32}
    assert torch.nn.functional.cosine_similarity(logits.float().flatten(), exact.flatten(), dim=0) > 0.99


@pytest.mark.parametrize(
    "name",
    [
        "transformer",
        "unimatrix-rosa",
        "unimatrix-discovery",
        "unimatrix-rosa-exact",
        "triple-slot",
        "triple-hybrid",
        "recurrent-ffn-hybrid",
    ],
)
def test_torch_compile_gives_the_same(name):
    torch.compiler.reset()  # one process compiles the same code for so many models only
    model = trained_size(name)
    compiled = torch.compile(model, dynamic=False, backend="aot_eager", fullgraph=True)
    expected, got = model(random_ids(2, 40))[0], compiled(random_ids(2, 40))[0]
    assert_close(got, expected, "logits")
    model.requires_grad_(True).train()
    grads = []
    for call in (model, compiled):
        model.zero_grad()
        call(random_ids(2, 40))[0].square().mean().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for mine, theirs in zip(*grads, strict=True):
        assert_close(theirs, mine, "gradient")


def test_a_state_dict_whose_head_is_not_the_embedding_is_refused() -> None:
    model = unimatrix.build("unimatrix-core", d_model=16, num_heads=2)
    held = model.state_dict()
    model.load_state_dict(held | {"head.weight": held["embedding.weight"].clone()})
    with pytest.raises(unimatrix.UserError, match=r"head.weight: expected what embedding.weight holds"):
        model.load_state_dict(held | {"head.weight": torch.zeros_like(held["embedding.weight"])})
    assert torch.equal(model.embedding.weight, held["embedding.weight"])


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's, of its unfold's backward
@pytest.mark.parametrize("name", PRESETS)
def test_vmap_over_texts_is_the_batch(name):
    """Ids, masks and beginnings of documents too: their values are then nobody's to look at."""
    model = trained_size(name, max_positions=None)
    ids, mask = random_ids(3, 12), torch.ones(3, 12, dtype=torch.bool)
    mask[0, :4] = False
    starts = torch.zeros(3, 12, dtype=torch.bool)
    starts[1, 5] = True
    keeps_apart = not model.reads_on
    given = (ids, mask, starts) if keeps_apart else (ids, mask)

    def read(ids, mask, starts=None):
        return model(ids[None], mask=mask[None], starts=None if starts is None else starts[None])[0][0]

    with torch.no_grad():
        whole = model(ids, mask=mask, starts=starts if keeps_apart else None)[0]
        assert_close(torch.func.vmap(read)(*given), whole, "logits")
        # and what it was given there is not held on to
        copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
        again = copied(ids, mask=mask, starts=starts if keeps_apart else None)[0]
        assert torch.equal(again[mask], whole[mask])
    model = model.double()
    weights = dict(model.named_parameters())

    def loss(weights, ids):
        logits = torch.func.functional_call(model, weights, (ids[None],))[0]
        return logits.square().mean()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, ids)
    for row in range(3):
        alone = torch.func.grad(loss)(weights, ids[row])
        for key, grad in alone.items():
            assert_close(each[key][row], grad, "gradient")


@pytest.mark.parametrize("wrong", [-1, 1.5, "2", True])
def test_a_state_of_no_number_of_rows(wrong):
    with pytest.raises(UserError, match=r"^batch_size: expected a whole number of at least 0, got"):
        trained_size("unimatrix-core").init_state(wrong)

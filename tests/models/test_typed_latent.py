"""Typed-Latent: what it recovers, what it learns, and that pieces and padding change nothing."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close

from unimatrix import UserError
from unimatrix.data.tasks import TripleInteractionConfig
from unimatrix.data.tasks.triple_interaction import RULES, Symbols, lookup_table, make
from unimatrix.models import (
    ModelConfig,
    TypedLatent,
    TypedLatentConfig,
    build,
    build_language_model,
    config_from_dict,
    model_from_config,
    parameter_count,
    preset_config,
    select_batch,
    task_presets,
)
from unimatrix.studies.paper.published import printed_parameters

SMALL = TypedLatentConfig(num_values=5, num_tag_symbols=3, rank=8, vocab_size=20, max_positions=None)
SYMBOLS = SMALL.symbols
PAPER = TripleInteractionConfig()
UNKNOWN = -1


@pytest.fixture
def small():
    """A small model in evaluation mode whose readout and biases are not 0."""
    torch.manual_seed(0)
    model = TypedLatent(SMALL).eval()
    with torch.no_grad():
        model.readout.normal_()
        model.biases.normal_()
    return model


def values_of(model, logits):
    """The logits of the value tokens; what lies beside them is -inf."""
    first, number = model.config.symbols.first_value, model.config.num_values
    beside = torch.cat([logits[..., :first], logits[..., first + number :]], dim=-1)
    assert (beside == -torch.inf).all()
    return logits[..., first : first + number]


def read(ids, mask):
    """A plain parser of one row [T]: at each position (rule, a, b, c) if asked, or None, and the task."""
    task, pending, bound, asked = None, [], {}, []
    for token, real in zip(ids, mask, strict=True):
        query = None
        if real and SYMBOLS.first_task <= token < SYMBOLS.first_role:
            task = RULES[token - SYMBOLS.first_task] if task is None else task
        elif real and SYMBOLS.first_role <= token < SYMBOLS.first_filler:
            values = [bound.get((token, SYMBOLS.first_role + place)) for place in range(Symbols.NUM_ROLES)]
            if token >= SYMBOLS.first_tag and not pending and task is not None and None not in values:
                query = (task, *values)
            pending.append(token)
        if len(pending) == 3:
            role, value, tag = sorted(pending)
            if role < SYMBOLS.first_value <= value < SYMBOLS.first_tag <= tag:
                bound[tag, role] = value - SYMBOLS.first_value
            pending = []
        asked.append((query, task))
    return asked


def answer(model, query, task):
    """The logits [n] that a model should give, by the formulas and the plain sum over the rank."""
    logits = torch.zeros(model.config.num_values, dtype=torch.float64)
    if task is not None:
        logits += model.biases[RULES.index(task)].detach().double()
    if query is not None:
        rule, a, b, c = query
        if rule == "lookup":
            rows = [model.factors[place, value].detach().double() for place, value in enumerate((a, b, c))]
            logits += torch.einsum("r,r,r,rn->n", *rows, model.readout.detach().double())
        else:
            n = model.config.num_values
            right = {"copy": a, "affine": (3 * a + 5 * b + 7 * c + 1) % n, "gate": b if a < n / 2 else c}
            logits[right[rule]] += 20.0
    return logits


def streams(symbols=SYMBOLS, vocab_size=SMALL.vocab_size):
    """Token streams with many bindings in them: threes of role, value and tag in any order, and anything."""
    any_token = st.integers(0, vocab_size - 1).map(lambda token: [token])
    task = st.integers(symbols.first_task, symbols.first_role - 1).map(lambda token: [token])
    binding = st.tuples(
        st.integers(symbols.first_role, symbols.first_value - 1),
        st.integers(symbols.first_value, symbols.first_tag - 1),
        # two of the tags, so that one often has all three roles
        st.integers(symbols.first_tag, symbols.first_tag + 1),
    ).flatmap(st.permutations)
    parts = st.lists(st.one_of(*[binding] * 12, task, any_token), min_size=1, max_size=24)
    return parts.map(lambda pieces: [token for piece in pieces for token in piece])


# ---- what it recovers and answers


@pytest.mark.parametrize("name", task_presets())
def test_counts_are_the_papers(name):
    printed = printed_parameters(name, setting="triple_interaction_vocab53_positions49")
    assert parameter_count(build(name)) == printed


@pytest.mark.parametrize("rule", ["copy", "affine", "gate"])
@pytest.mark.parametrize(
    "task",
    [
        PAPER,
        TripleInteractionConfig(num_tags=2, num_tag_symbols=3, num_values=5, length=30, vocab_size=24),
    ],
)
def test_the_rules_with_a_formula_need_no_training(rule, task):
    model = TypedLatent(
        TypedLatentConfig(
            num_values=task.num_values, num_tag_symbols=task.num_tag_symbols, vocab_size=task.vocab_size
        )
    )
    batch = make(replace(task, rules=(rule,)), seed=3, step=0, batch_size=512, stream="eval")
    logits, _ = model(batch.input_ids)
    asked = batch.labels >= 0
    assert asked.sum() == 512
    assert torch.equal(logits.argmax(-1)[asked], batch.labels[asked])
    assert torch.nn.functional.cross_entropy(logits[asked], batch.labels[asked]) < 1e-6


def test_two_hundred_steps_of_eight_learn_the_random_table():
    torch.manual_seed(0)
    model = build("typed-latent")
    task = TripleInteractionConfig(rules=("lookup",))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.01)
    for step in range(200):
        batch = make(task, seed=7, step=step, batch_size=8)
        logits, _ = model(batch.input_ids)
        # as in the curriculum's last phase, where three quarters of the answers cost nothing
        loss = torch.nn.functional.cross_entropy(logits[:, -1], batch.labels[:, -1]) / 4
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    entries = torch.cartesian_prod(*[torch.arange(task.lookup_values)] * 3)
    learned = (model.lookup(*entries.T) + model.biases[RULES.index("lookup")]).argmax(-1)
    table = torch.from_numpy(lookup_table(task))[tuple(entries.T)]
    assert len(entries) == 64
    assert torch.equal(learned, table)


@settings(deadline=None, max_examples=80)
@given(ids=streams(), seed=st.integers(0, 2**16))
def test_what_is_asked_is_what_a_plain_parser_finds(ids, seed):
    torch.manual_seed(1)
    model = TypedLatent(SMALL).eval()
    with torch.no_grad():
        model.readout.normal_()
        model.biases.normal_()
        mask = torch.rand(1, len(ids), generator=torch.Generator().manual_seed(seed)) < 0.9
        for given_mask in (None, mask):
            logits, _ = model(torch.tensor([ids]), mask=given_mask)
            real = mask[0].tolist() if given_mask is not None else [True] * len(ids)
            expected = torch.stack([answer(model, *asked) for asked in read(ids, real)]).float()
            got = values_of(model, logits)[0]
            assert_close(got[real], expected[real], "logits")


def test_a_later_binding_takes_the_place_of_an_earlier_one(small):
    task, role, value, tag = (getattr(SYMBOLS, f"first_{name}") for name in ("task", "role", "value", "tag"))
    ids = [Symbols.BOS, task, tag, role, value + 4, role + 1, tag, value, value + 1, tag, role + 2]
    again = [value + 2, role, tag]
    for extra, copied in (([], 4), (again, 2), ([*again, tag, tag, value], 2)):
        # a three without a role binds nothing, and the one after it is read all the same
        logits, state = small(torch.tensor([[*ids, *extra, tag]]))
        assert int(values_of(small, logits)[0, -1].sub(small.biases[0]).argmax()) == copied
        assert state.bindings[0].tolist() == [[copied, 0, 1], [UNKNOWN] * 3, [UNKNOWN] * 3]
        assert state.unfinished.tolist() == [[tag, UNKNOWN]]


def test_without_a_task_token_nothing_is_preferred(small):
    task = TripleInteractionConfig(
        task_token=False, num_tags=2, num_tag_symbols=3, num_values=5, length=30, vocab_size=20
    )
    ids = make(task, seed=0, step=0, batch_size=4).input_ids
    logits, state = small(ids)
    assert (values_of(small, logits) == 0).all()
    assert (state.task == UNKNOWN).all()
    assert (state.bindings != UNKNOWN).all(-1).sum(1).tolist() == [2] * 4, "it reads on all the same"


# ---- one call for reading and decoding


@settings(deadline=None, max_examples=40)
@given(ids=streams(), data=st.data())
def test_pieces_equal_the_whole(ids, data):
    torch.manual_seed(2)
    model = TypedLatent(SMALL).eval()
    with torch.no_grad():
        model.readout.normal_()
        model.biases.normal_()
        ids = torch.tensor([ids, ids[::-1]])
        whole, end = model(ids)
        cuts = data.draw(st.lists(st.integers(0, ids.shape[1]), max_size=8).map(sorted))
        every = list(range(1, ids.shape[1]))
        for places in (cuts, every):
            state, pieces = None, []
            for start, stop in zip([0, *places], [*places, ids.shape[1]], strict=True):
                piece, state = model(ids[:, start:stop], state)
                pieces.append(piece)
            got, expected = (values_of(model, logits) for logits in (torch.cat(pieces, dim=1), whole))
            assert_close(got, expected, "logits")
            for part, of_whole in zip(state, end, strict=True):
                assert torch.equal(part, of_whole)


def test_padding_changes_nothing(small):
    task = TripleInteractionConfig(num_tags=2, num_tag_symbols=3, num_values=5, length=30, vocab_size=20)
    ids = make(task, seed=5, step=700, batch_size=6).input_ids
    expected, end = small(ids)
    padded = torch.full((6, 40), SYMBOLS.first_tag)
    mask = torch.zeros(6, 40, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for row in range(6):
        # left padding in the first row, holes anywhere in the others; they hold real symbols to be ignored
        places = torch.arange(10, 40)
        if row > 0:
            places = torch.randperm(40, generator=generator)[:30].sort().values
        padded[row, places] = ids[row]
        mask[row, places] = True
    logits, state = small(padded, mask=mask)
    assert_close(values_of(small, logits)[mask], values_of(small, expected).flatten(0, 1), "logits")
    for part, alone in zip(state, end, strict=True):
        assert torch.equal(part, alone)


def test_states_begin_empty_and_their_rows_can_be_chosen(small):
    ids = make(PAPER, seed=0, step=0, batch_size=2).input_ids
    model = build("typed-latent")
    nothing, start = model(ids[:, :0])
    assert nothing.shape == (2, 0, 53)
    for part, empty in zip(start, model.init_state(2), strict=True):
        assert torch.equal(part, empty)
    _, state = model(ids[:, :30])
    other = model(ids.flip(0)[:, 30:], select_batch(state, torch.tensor([1, 0])))[1]
    for part, expected in zip(other, model(ids.flip(0))[1], strict=True):
        assert torch.equal(part, expected)


def test_it_is_one_graph_for_the_compiler(small):
    ids = make(PAPER, seed=0, step=700, batch_size=4).input_ids
    model = build("typed-latent")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(ids)[0], model(ids)[0])


# ---- learning


def test_every_parameter_learns_and_only_where_something_is_asked(small):
    task = TripleInteractionConfig(num_tags=2, num_tag_symbols=3, num_values=5, length=30, vocab_size=20)
    batch = make(task, seed=5, step=700, batch_size=256)
    logits, _ = small(batch.input_ids)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten()).backward()
    for name, parameter in small.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name
    met = task.lookup_values
    assert (small.factors.grad[:, :met] != 0).all()
    assert (small.factors.grad[:, met:] == 0).all(), "no sequence of lookup holds these values"


def test_dropout_is_on_the_learned_table_alone():
    torch.manual_seed(0)
    model = TypedLatent(preset_config("typed-latent", dropout=0.5))
    torch.nn.init.normal_(model.readout)
    batch = make(PAPER, seed=0, step=700, batch_size=64)
    once, twice = (model(batch.input_ids)[0][:, -1] for _ in range(2))
    same = (once == twice).all(-1)
    assert torch.equal(same, batch.input_ids[:, 1] != PAPER.symbols.first_task + RULES.index("lookup"))
    model.eval()
    assert torch.equal(model(batch.input_ids)[0], model(batch.input_ids)[0])


def test_fresh_weights_are_the_seeds():
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(build("typed-latent").factors.detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].std().item() == pytest.approx(1.0, abs=0.02)


# ---- configs of two kinds


@pytest.mark.parametrize("name", [*task_presets(), "transformer"])
def test_configs_of_both_kinds_survive_json(name):
    config = preset_config(name, vocab_size=60, max_positions=None, dropout=0.25)
    values = json.loads(json.dumps(config.to_dict()))
    assert config_from_dict(values) == config
    assert model_from_config(config).config == config
    assert isinstance(config, TypedLatentConfig) == (values.get("kind") == "typed_latent")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "mamba"}, "expected no kind or typed_latent or mamba2, got 'mamba'"),
        (
            {"kind": "typed_latent", "ranks": 3},
            "typed_latent config: unknown setting 'ranks'",
        ),
        ({"rank": 3}, "model config: unknown setting 'rank'"),
        ([], "model config: expected an object with settings"),
    ],
)
def test_dicts_that_are_no_config_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        config_from_dict(values)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"d_model": 64}, "preset typed-latent: unknown setting 'd_model'"),
        ({"rank": 0}, "rank: expected a positive number, got 0"),
        ({"rank": 2.5}, "rank: expected a whole number, got 2.5"),
        ({"dropout": 1.0}, "dropout: expected at least 0 and below 1, got 1"),
        (
            {"vocab_size": 32},
            "vocab_size: expected at least the 33 symbols of the task",
        ),
        ({"max_positions": 0}, "max_positions: expected a positive number, got 0"),
    ],
)
def test_bad_settings_are_one_line(setting, message):
    with pytest.raises(UserError, match=message):
        build("typed-latent", **setting)


def test_bad_input_is_one_line():
    model = build("typed-latent")
    ids = torch.zeros(1, 49, dtype=torch.int64)
    _, state = model(ids)
    for call, message in (
        (lambda: model(ids[0]), "input_ids: expected shape"),
        (lambda: model(ids, mask=ids[:, :3] == 0), "mask: expected shape"),
        (lambda: model(ids + 53), "expected token ids from 0 to 52, got 53"),
        (lambda: model(ids - 1), "expected token ids from 0 to 52, got -1"),
        (lambda: model(torch.zeros(1, 50, dtype=torch.int64)), "at most max_positions = 49 tokens, got 50"),
        (lambda: model(ids[:, :1], state), "at most max_positions = 49 tokens, got 50"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_what_needs_a_language_model_says_so():
    assert isinstance(build_language_model("transformer-triple").config, ModelConfig)
    with pytest.raises(UserError, match="preset typed-latent: knows one task's tokens alone"):
        build_language_model("typed-latent")

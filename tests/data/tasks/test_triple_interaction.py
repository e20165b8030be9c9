"""Triple interaction: bindings that are read in one way alone, one right answer, and what nobody can know.

The plain reader below goes through a sequence token by token and shares no line with the module's oracle.
"""

import dataclasses
import hashlib
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unimatrix.data.tasks import IGNORE, TripleInteractionConfig
from unimatrix.data.tasks import triple_interaction as triple
from unimatrix.data.tasks.triple_audit import audit, guess_by_rule
from unimatrix.data.tasks.triple_interaction import RULES, Symbols, symbolic_answer
from unimatrix.errors import UserError

CONFIG = TripleInteractionConfig()
MALFORMED = TripleInteractionConfig(task_token=False)
SEEDS = (7, 11, 1, 2, 3)
# what is published depends on these: the table's first eight entries, and the first sequences
TABLE_BEGINS = [5, 0, 12, 6, 11, 7, 10, 6]
PINNED = {
    (CONFIG, "train"): "bcdcabd67ede63ed156fe45cba86841e3674923c9bd420b1152f2e64e683b136",
    (CONFIG, "eval"): "cb507eabf1dc8ced221ad71c57a3c8ca5bd1e5c6d2b9536f710de086a132689e",
    (MALFORMED, "train"): "ae7c73bc3cae23a7f7a6dbc42d22ce685c72f81bb4ab640f5297b66f1abfa8d7",
}


def draw(config=CONFIG, **changed):
    arguments = {"seed": 7, "step": 3, "batch_size": 512, "stream": "eval"} | changed
    return triple.make(config, **arguments)


def within(share, expected, n):
    """Five standard deviations of a share of n independent trials."""
    return abs(share - expected) <= 5 * math.sqrt(expected * (1 - expected) / n)


def only(rule, config=CONFIG):
    return dataclasses.replace(config, rules=(rule,))


def read(config, row):
    """(task token, {tag: {role: value}}, [start of each binding], [filler]) of a sequence."""
    symbols, bound, starts, filler = config.symbols, {}, [], []
    at = 2
    while at < config.length - 1:
        if row[at] >= symbols.first_filler:
            filler.append(row[at])
            at += 1
            continue
        role, value, tag = sorted(row[at : at + 3])
        assert symbols.first_role <= role < symbols.first_value <= value < symbols.first_tag <= tag
        assert tag < symbols.first_filler
        roles = bound.setdefault(tag, {})
        assert role not in roles
        roles[role] = value - symbols.first_value
        starts.append(at)
        at += 3
    return row[1], bound, starts, filler


def answer(config, rule, a, b, c):
    """The rule as the docstring states it, one triple at a time."""
    n = config.num_values
    if rule == "copy":
        return a
    if rule == "affine":
        return (3 * a + 5 * b + 7 * c + 1) % n
    if rule == "gate":
        return b if a < n / 2 else c
    return int(triple.lookup_table(config)[a, b, c])


@st.composite
def configs(draw):
    """Settings that fit together, at their limits as likely as not."""
    tag_symbols, values = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    tags = draw(st.integers(1, tag_symbols))
    chosen = draw(st.sets(st.sampled_from(RULES), min_size=1))
    return TripleInteractionConfig(
        rules=tuple(rule for rule in RULES if rule in chosen),
        num_tags=tags,
        num_tag_symbols=tag_symbols,
        num_values=values,
        lookup_values=draw(st.integers(1, values)),
        table_seed=draw(st.integers(0, 2**63 - 1)),
        phase_steps=draw(st.none() | st.integers(1, 300)),
        length=3 + 9 * tags + draw(st.integers(0, 12)),
        vocab_size=9 + values + tag_symbols + draw(st.integers(1, 9)),
    )


@settings(deadline=None, max_examples=120)
@given(
    config=configs(),
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 10**6),
    stream=st.sampled_from(["train", "eval"]),
)
def test_every_sequence_has_one_answer_and_its_bindings_tell_it(config, seed, step, stream):
    batch_size, symbols = 8, config.symbols
    ids, labels = triple.make(config, seed=seed, step=step, batch_size=batch_size, stream=stream)
    assert ids.shape == labels.shape == (batch_size, config.length)
    assert ids.dtype == labels.dtype == torch.int64
    assert (ids[:, 0] == Symbols.BOS).all()
    assert (ids[:, 1:] > Symbols.BOS).all()
    assert ids.max() < config.vocab_size
    assert (labels[:, :-1] == IGNORE).all()
    assert torch.equal(triple.oracle(config, ids), labels[:, -1])
    for row, label in zip(ids.tolist(), labels[:, -1].tolist(), strict=True):
        task, bound, starts, filler = read(config, row)
        rule = RULES[task - symbols.first_task]
        assert rule in config.rules
        assert len(bound) == config.num_tags
        assert all(len(roles) == 3 for roles in bound.values())
        assert len(filler) == config.length - 3 - 3 * len(starts) == config.num_filler
        largest = config.lookup_values if rule == "lookup" else config.num_values
        assert all(value < largest for roles in bound.values() for value in roles.values())
        a, b, c = (bound[row[-1]][symbols.first_role + place] for place in range(3))
        assert label - symbols.first_value == answer(config, rule, a, b, c)


def test_the_oracle_is_always_right_and_a_constant_answer_as_often_as_chance_says():
    ids, labels = draw(batch_size=16_384)
    assert torch.equal(triple.oracle(CONFIG, ids), labels[:, -1])
    for rule, expected in triple.chance_by_rule(CONFIG).items():
        answers = draw(only(rule), batch_size=16_384).labels[:, -1]
        best = float(torch.bincount(answers).max()) / 16_384
        # the largest of 16 shares lies above each one of them by chance, but not by more than this
        assert within(best, expected, 16_384)
        assert triple.chance(only(rule)) == expected


def test_chance_is_counted_over_what_the_rules_sequences_hold():
    by_rule = triple.chance_by_rule(CONFIG)
    assert list(by_rule) == list(RULES)
    table = triple.lookup_table(CONFIG)
    counts = Counter(table[:4, :4, :4].ravel().tolist())
    assert by_rule == {
        "copy": 1 / 16,
        "affine": 1 / 16,
        "gate": 1 / 16,
        "lookup": max(counts.values()) / 64,
    }
    # one constant for all rules together: the other three give each answer equally often
    assert triple.chance(CONFIG) == pytest.approx((3 / 16 + by_rule["lookup"]) / 4)
    # the malformed original has values of all 16 for lookup too
    assert triple.chance_by_rule(MALFORMED)["lookup"] == max(Counter(table.ravel().tolist()).values()) / 4096


@pytest.mark.parametrize("make_value", [int, np.array, torch.tensor])
def test_rules_with_a_formula_take_numbers_arrays_and_tensors(make_value):
    for a, b, c in itertools.product(range(6), repeat=3):
        given_values = [make_value(value) for value in (a, b, c)]
        for rule in RULES[:3]:
            expected = answer(TripleInteractionConfig(num_values=6, lookup_values=1), rule, a, b, c)
            assert int(symbolic_answer(rule, *given_values, 6)) == expected


def test_the_table_depends_on_its_seed_and_the_number_of_values_alone():
    table = triple.lookup_table(CONFIG)
    assert table.shape == (16, 16, 16)
    assert table.dtype == np.int64
    assert set(table.ravel().tolist()) == set(range(16))
    same = dataclasses.replace(CONFIG, lookup_values=16, rules=("lookup",), num_tags=2, task_token=False)
    assert np.array_equal(triple.lookup_table(same), table)
    others = [triple.lookup_table(TripleInteractionConfig(table_seed=seed)) for seed in (1, 2)]
    assert not np.array_equal(*others)
    # pinned: results depend on it
    assert table[:2, :2, :2].ravel().tolist() == TABLE_BEGINS


def test_tags_roles_bindings_filler_and_queries_stand_anywhere():
    config = TripleInteractionConfig(num_tags=1, length=14, rules=("copy",))
    n, symbols = 8192, config.symbols
    ids, _ = draw(config, batch_size=n)
    inside, order, places = Counter(), Counter(), Counter()
    for row in ids.tolist():
        _, _, starts, _ = read(config, row)
        places[tuple(starts)] += 1
        threes = [row[at : at + 3] for at in starts]
        order[tuple(next(t for t in three if t < symbols.first_value) for three in threes)] += 1
        inside[tuple(np.argsort(threes[0]).tolist())] += 1
    # six orders inside a binding, six of the three bindings, and three bindings among two filler tokens
    for counts, number in ((inside, 6), (order, 6), (places, 10)):
        assert len(counts) == number
        assert all(within(count / n, 1 / number, n) for count in counts.values())


def test_every_symbol_gets_its_turn():
    n, symbols = 8192, CONFIG.symbols
    ids, _ = draw(batch_size=n)
    for column, first, last in ((1, symbols.first_task, 6), (-1, symbols.first_tag, symbols.first_filler)):
        shares = torch.bincount(ids[:, column]).double() / n
        expected = 1 / (last - first)
        assert shares.nonzero()[:, 0].tolist() == list(range(first, last))
        assert all(within(float(share), expected, n) for share in shares[first:])
    body = ids[:, 2:-1]
    filler = body[body >= symbols.first_filler]
    assert len(filler) == n * CONFIG.num_filler
    shares = torch.bincount(filler - symbols.first_filler).double() / len(filler)
    assert len(shares) == 20
    assert all(within(float(share), 1 / 20, len(filler)) for share in shares)


def test_in_lookups_sequences_the_queried_tag_does_not_stand_out():
    """All tags have values of the first four: the queried one's are spread as those of the others are."""
    config = only("lookup")
    asked, others = Counter(), Counter()
    for row in draw(config, batch_size=2048).input_ids.tolist():
        for tag, roles in read(config, row)[1].items():
            (asked if tag == row[-1] else others).update(roles.values())
    assert set(asked) == set(others) == {0, 1, 2, 3}
    for counts in (asked, others):
        total = sum(counts.values())
        assert all(within(count / total, 1 / 4, total) for count in counts.values())


@pytest.mark.parametrize("rules", [RULES, ("copy", "lookup")])
def test_training_takes_up_one_rule_after_the_other_and_evaluation_all_at_once(rules):
    config = TripleInteractionConfig(rules=rules, phase_steps=5)

    def seen(step, stream):
        ids = draw(config, step=step, stream=stream, batch_size=256).input_ids
        return {RULES[token - 2] for token in ids[:, 1].tolist()}

    for step in range(30):
        assert seen(step, "train") == set(rules[: 1 + step // 5])
        assert seen(step, "eval") == set(rules)
    at_once = dataclasses.replace(config, phase_steps=None)
    assert set(draw(at_once, step=0, stream="train").input_ids[:, 1].tolist()) == {
        2 + RULES.index(rule) for rule in rules
    }


def test_the_staged_curriculum_meets_every_entry_that_lookup_is_asked_for():
    """A random table is learned entry by entry: four phases of 200 steps meet the rarest of the 64 often."""
    rarest = {}
    for seed in SEEDS:
        met = np.zeros((4, 4, 4), dtype=int)
        lookup_token = CONFIG.symbols.first_task + RULES.index("lookup")
        for step in range(600, 800):
            ids = draw(seed=seed, step=step, stream="train", batch_size=32).input_ids.numpy()
            for row in ids[ids[:, 1] == lookup_token].tolist():
                roles = read(CONFIG, row)[1][row[-1]]
                met[tuple(roles[CONFIG.symbols.first_role + place] for place in range(3))] += 1
        rarest[seed] = met.min()
    assert min(rarest.values()) >= 10, rarest


def test_without_a_task_token_one_sequence_has_several_right_answers():
    batches = {rule: draw(only(rule, MALFORMED)) for rule in RULES}
    ids = batches["copy"].input_ids
    assert all(torch.equal(batch.input_ids, ids) for batch in batches.values())
    # what stands in the task token's place says nothing
    assert (ids[:, 1] >= MALFORMED.symbols.first_filler).all()
    labels = torch.stack([batch.labels[:, -1] for batch in batches.values()])
    different = [len(set(column)) for column in labels.T.tolist()]
    assert min(different) > 1
    assert max(different) == 4
    # and with one there is nothing that two rules are asked of alike
    corrected = [draw(only(rule)).input_ids for rule in RULES]
    assert all((one[:, 1] != other[:, 1]).all() for one, other in itertools.combinations(corrected, 2))


def test_the_audit_is_what_counting_triple_by_triple_gives():
    found = audit(CONFIG)
    reached, by_rule, ambiguous = 0.0, dict.fromkeys(RULES, 0.0), 0
    table = triple.lookup_table(CONFIG)
    for a, b, c in itertools.product(range(16), repeat=3):
        answers = {rule: answer(CONFIG, rule, a, b, c) for rule in RULES[:3]} | {
            "lookup": int(table[a, b, c])
        }
        counts = Counter(answers.values())
        most = max(counts.values())
        best = [value for value, count in counts.items() if count == most]
        reached += most / 4
        ambiguous += len(counts) > 1
        for rule, value in answers.items():
            by_rule[rule] += (value in best) / len(best)
    assert (found.num_triples, found.num_ambiguous) == (4096, ambiguous)
    assert found.accuracy == pytest.approx(reached / 4096, abs=1e-12)
    assert found.by_rule == pytest.approx({rule: right / 4096 for rule, right in by_rule.items()}, abs=1e-12)
    assert found.accuracy == pytest.approx(sum(found.by_rule.values()) / 4)
    # it is a property of the rules: whether the settings have a task token does not matter
    assert audit(MALFORMED) == found
    assert 0.25 < found.accuracy < 0.35
    # a rule by itself is never in doubt
    alone = audit(only("affine"))
    assert (alone.accuracy, alone.num_ambiguous, alone.by_rule) == (1.0, 0, {"affine": 1.0})


def test_no_predictor_of_the_malformed_sequences_does_better_than_the_audit_says():
    """The best predictor, which knows rules, table and the queried values, on sequences that are drawn."""
    n, right = 4096, 0
    config = MALFORMED
    ids, labels = draw(config, batch_size=n)
    for row, label in zip(ids.tolist(), labels[:, -1].tolist(), strict=True):
        roles = read(config, row)[1][row[-1]]
        a, b, c = (roles[config.symbols.first_role + place] for place in range(3))
        counts = Counter(answer(config, rule, a, b, c) for rule in RULES)
        right += counts.most_common(1)[0][0] == label - config.symbols.first_value
    assert within(right / n, audit(config).accuracy, n)


@pytest.mark.parametrize("rule", RULES)
def test_picking_one_of_the_sequences_values_is_right_as_often_as_counted(rule):
    n, first = 4096, CONFIG.symbols.first_value
    ids, labels = draw(only(rule), batch_size=n)
    is_value = (ids >= first) & (ids < first + 16)
    assert (is_value.sum(1) == 12).all()
    values = ids[is_value].view(n, 12)
    # the mean over all twelve picks, whose spread is below that of one
    right = (values == labels[:, -1:]).double().mean().item()
    assert within(right, guess_by_rule(CONFIG)[rule], n)


def test_the_first_batches_are_pinned():
    # results depend on them: a change here is a change of every published number
    for (config, stream), digest in PINNED.items():
        assert triple.fingerprint(config, stream=stream) == digest
    # that of training covers every phase
    batches = [triple.make(CONFIG, seed=0, step=step, batch_size=32) for step in (0, 200, 400, 600)]
    both = b"".join(torch.stack([*batch]).numpy().astype("<i8").tobytes() for batch in batches)
    assert hashlib.sha256(both).hexdigest() == PINNED[CONFIG, "train"]


def test_same_seed_and_step_give_the_same_batch_whatever_the_global_generators_do():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = draw()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(first.input_ids, draw().input_ids)
    # and the first rows are the same however many follow
    assert torch.equal(first.input_ids[:5], draw(batch_size=5).input_ids)
    assert torch.equal(first.labels[:5], draw(batch_size=5).labels)


def test_every_seed_step_and_stream_is_another_batch():
    drawn = [
        draw(seed=seed, step=step, stream=stream, batch_size=4)
        for seed in range(4)
        for step in range(4)
        for stream in ("train", "eval")
    ]
    assert len({batch.input_ids.numpy().tobytes() for batch in drawn}) == 32


def test_each_rule_by_itself_is_a_task_of_its_own():
    assert triple.variants(CONFIG) == {rule: only(rule) for rule in RULES}
    assert triple.variants(only("gate")) == {}


def test_symbols_have_names_that_are_read_back():
    names = [triple.symbol(CONFIG, token) for token in range(53)]
    assert names[:10] == ["PAD", "BOS", "COPY", "AFFINE", "GATE", "LOOKUP", "A", "B", "C", "v0"]
    assert names[24:34] == ["v15", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "f1"]
    assert names[-1] == "f20"
    assert triple.read_symbols(CONFIG, " ".join(names)) == list(range(53))
    message = "prompt: expected symbols among BOS, COPY, .*, v0 to v15, t1 to t8, f1 to f20, got 'v16'"
    with pytest.raises(UserError, match=message):
        triple.read_symbols(CONFIG, "BOS v16")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rules": ()}, "rules: expected some of copy, affine, gate, lookup, each once .*, got none"),
        ({"rules": ("lookup", "copy")}, "in this order, got lookup, copy"),
        ({"rules": ("copy", "copy")}, "each once and in this order, got copy, copy"),
        ({"rules": ("sum",)}, "rules: expected some of copy, affine, gate, lookup.*got sum"),
        ({"rules": "copy"}, "rules: expected texts, got 'copy'"),
        ({"rules": (1,)}, r"rules: expected texts, got \(1,\)"),
        ({"num_tags": 9}, "num_tags: expected at most num_tag_symbols 8, got 9"),
        ({"num_tags": 0}, "num_tags: expected a positive number, got 0"),
        ({"lookup_values": 17}, "lookup_values: expected at most num_values 16, got 17"),
        ({"lookup_values": 0}, "lookup_values: expected a positive number, got 0"),
        ({"num_values": 0}, "num_values: expected a positive number, got 0"),
        ({"table_seed": -1}, "table_seed: expected at least 0 .*got -1"),
        ({"phase_steps": 0}, "phase_steps: expected a positive number, got 0"),
        ({"task_token": 1}, "task_token: expected true or false, got 1"),
        (
            {"length": 38},
            r"length: expected at least 39, BOS, .* 12 bindings of 3 .* \(num_tags 4\), got 38",
        ),
        ({"vocab_size": 33}, r"vocab_size: expected at least 34 \(PAD, BOS, 4 task tokens.*, got 33"),
        ({"eval_sequences": 0}, "eval_sequences: expected a positive number, got 0"),
    ],
)
def test_bad_settings_are_named_in_one_line(changed, message):
    with pytest.raises(UserError, match=message) as caught:
        TripleInteractionConfig(**changed)
    assert "\n" not in str(caught.value)


def test_a_batch_has_at_least_one_row():
    with pytest.raises(UserError, match="batch_size: expected at least 1, got 0"):
        draw(batch_size=0)

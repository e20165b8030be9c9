"""Section 5.6: recipes, the paper's numbers, claims in their outcomes, what is shown."""

import dataclasses
import io
import json

import pytest
from drawn import check_pictures, records_of, spec_of, values_of
from rich.console import Console

from unimatrix.lab.charts.records import EXACT, OURS
from unimatrix.lab.page import render_report
from unimatrix.lab.terminal import print_summaries
from unimatrix.lab.words import NOTHING, summarise
from unimatrix.models import build, parameter_count, preset_config
from unimatrix.studies.catalogue import experiment
from unimatrix.studies.makers import NOT_IN_THE_PAPER as BEYOND
from unimatrix.studies.paper import recurrent_memory
from unimatrix.studies.paper.claims import PAPER
from unimatrix.studies.paper.published import published
from unimatrix.studies.paper.recurrent_ffn import (
    EARLY,
    LATE,
    SECTION56_FIRST,
    SECTION56_PERPLEXITY,
    SECTION56_TUNED,
    XAVIER,
)
from unimatrix.studies.paper.recurrent_memory import (
    RECALL64,
    SECTION56_MEMORY,
    SIGNAL_NOISE,
    section56_memory,
)

FIRST_TRANSFORMER, FIRST = "table1.transformer", "ffn-first.recurrent-ffn"
TRANSFORMER, PLAIN = "ffn-tuned.transformer", "ffn-tuned.recurrent-ffn"
HYBRID = "ffn-tuned.recurrent-ffn-hybrid"
MEMORY_STEPS, MEMORY_LR = recurrent_memory.STEPS, recurrent_memory.LR
TABLES = (SECTION56_FIRST, SECTION56_TUNED, SECTION56_MEMORY)
SEEDS = (7, 11, 13, 17, 19)
SPREAD = (0.01, -0.01, 0.005, 0.0, -0.005)
YES, NO, OPEN = "reproduced", "not reproduced", "undecided"

# bits per byte, those after 120 and 200 steps, or accuracy in percent; as the paper prints them, or near
LIKE_THE_PAPER = {
    FIRST_TRANSFORMER: 5.144,
    FIRST: 5.178,
    "ffn-first.recurrent-ffn-readout": 5.17,
    "ffn-first.recurrent-ffn-hybrid": 5.15,
    TRANSFORMER: (4.309, 3.948),
    PLAIN: (4.512, 4.1),
    "ffn-tuned.recurrent-ffn-readout": (4.5, 4.0),
    HYBRID: (4.414, 3.888),
    "ffn-tuned.mamba2": (4.2, 3.7),
    "ffn-tuned-xavier.transformer": (4.55, 4.06),
    "ffn-tuned-xavier.recurrent-ffn": (4.5, 3.9),
    "ffn-tuned-xavier.recurrent-ffn-hybrid": (4.5, 3.9),
    "recall64.transformer": 7.0,
    "recall64.mamba2": 10.2,
    "recall64.recurrent-ffn": 15.8,
    "recall64.recurrent-ffn-readout": 16.0,
    "recall64.recurrent-ffn-hybrid": 16.0,
    "signal-noise.transformer": 8.6,
    "signal-noise.mamba2": 8.6,
    "signal-noise.recurrent-ffn": 12.7,
    "signal-noise.recurrent-ffn-readout": 13.0,
    "signal-noise.recurrent-ffn-hybrid": 13.0,
}


@pytest.fixture
def like_the_paper(samples):
    """like_the_paper({experiment: value, ...}) -> five seeds of everything, those replaced.

    A dict of seeds is taken as it is; other values get the seeds' common spread and one of their own.
    """

    def spread(values, turn):
        own = {seed: SPREAD[(number + turn) % 5] / 10 for number, seed in enumerate(SEEDS)}
        common = dict(zip(SEEDS, SPREAD, strict=True))
        if isinstance(values, dict):
            return values
        if isinstance(values, tuple):
            return {seed: tuple(value + common[seed] + own[seed] for value in values) for seed in SEEDS}
        return {seed: values + common[seed] + own[seed] for seed in SEEDS}

    def build_samples(changes=None):
        values = LIKE_THE_PAPER | (changes or {})
        return samples({name: spread(value, turn) for turn, (name, value) in enumerate(values.items())})

    return build_samples


def outcomes(table, runs):
    return [claim.judge(runs).outcome for claim in table.claims]


@pytest.mark.parametrize("name", SECTION56_FIRST.names)
def test_the_first_setting_is_table1s_recipe(name) -> None:
    recipe, base = experiment(name), experiment("table1.transformer")
    same = dataclasses.replace(recipe, name=base.name, model=base.model)
    assert same == base
    assert recipe.model == dataclasses.replace(base.model, preset=name.partition(".")[2])


@pytest.mark.parametrize("name", SECTION56_TUNED.names)
def test_the_tuned_recipe_differs_in_rate_dropout_and_steps_alone(name) -> None:
    recipe, base = experiment(name), experiment("table1.transformer")
    assert recipe.optim == dataclasses.replace(base.optim, lr=4e-4)
    family, _, preset = name.partition(".")
    start = {"qkv_init": "xavier"} if family == "ffn-tuned-xavier" else {}
    assert recipe.model == dataclasses.replace(base.model, preset=preset, dropout=0.0, changes=start)
    assert (recipe.loop.steps, recipe.loop.eval_at) == (200, (120, 200))
    unchanged = dataclasses.replace(
        recipe.loop, steps=80, eval_at=None, eval_every=base.loop.eval_every, eval_bytes=base.loop.eval_bytes
    )
    assert unchanged == base.loop


@pytest.mark.parametrize("name", SECTION56_MEMORY.names)
def test_both_memory_tasks_have_one_recipe_at_length_64(name) -> None:
    recipe = experiment(name)
    family, preset = name.split(".")
    assert recipe.task == (RECALL64 if family == "recall64" else SIGNAL_NOISE)
    assert (recipe.loop.seq_len, recipe.model.max_positions, recipe.task.length) == (64, 64, 64)
    assert (recipe.loop.steps, recipe.loop.eval_at) == (MEMORY_STEPS[-1], MEMORY_STEPS)
    assert recipe.loop.batch_size == 32
    optim = recipe.optim
    assert (optim.lr, optim.schedule, optim.weight_decay) == (MEMORY_LR, "constant", 0.01)
    assert (recipe.model.preset, recipe.model.dropout) == (preset, 0.0)
    # Mamba-2 has no q, k, v
    assert recipe.model.changes == ({} if preset == "mamba2" else {"qkv_init": "normal"})


def test_both_tasks_have_16_values_and_64_tokens() -> None:
    sizes = (RECALL64.num_pairs, RECALL64.num_keys, RECALL64.num_values, RECALL64.num_fillers)
    assert sizes == (4, 16, 16, 12)
    assert (SIGNAL_NOISE.num_distractors, SIGNAL_NOISE.num_values, SIGNAL_NOISE.num_noise) == (7, 16, 12)
    assert {(task.vocab_size, task.eval_sequences) for task in (RECALL64, SIGNAL_NOISE)} == {(64, 2048)}


@pytest.mark.parametrize("name", sorted({name for table in TABLES for name in table.names}))
def test_every_model_can_be_built_and_the_printed_parameters_are_its_own(name) -> None:
    recipe = experiment(name)
    vocab_size = 259 if recipe.task is None else recipe.task.vocab_size
    model = build(recipe.model.resolved(vocab_size))
    rows = [row for table in TABLES for row in table.trained if row.experiment.name == name]
    for row in rows:
        assert row.paper_parameters in (None, parameter_count(model))
    assert len(rows) == (0 if name.startswith("signal-noise") else 1)


def test_the_tables_hold_what_the_paper_prints() -> None:
    def printed(table):
        return [(row.name, row.paper_parameters, dict(row.paper)) for row in table.trained]

    def both(recall, signal):
        """The paper does not say after how many steps: one value a task, in both of its columns."""
        at_all = {f"recall_{step}": recall for step in MEMORY_STEPS}
        return at_all | {f"signal_noise_{step}": signal for step in MEMORY_STEPS}

    seven, eleven = f"{LATE}@7", f"{LATE}@11"
    assert printed(SECTION56_FIRST) == [
        ("Transformer", 174_848, {"bpb": 5.144}),
        ("Recurrent-FFN", 173_888, {"bpb": 5.178}),
        (f"Recurrent-FFN-Readout ({BEYOND})", None, {}),
        (f"Recurrent-FFN-Hybrid ({BEYOND})", None, {}),
    ]
    assert printed(SECTION56_TUNED) == [
        ("Transformer", 174_848, {EARLY: 4.309, seven: 3.930, eleven: 3.965}),
        ("Recurrent-FFN", 173_888, {EARLY: 4.512}),
        ("Recurrent-FFN-Hybrid", 174_080, {EARLY: 4.414, seven: 3.899, eleven: 3.876}),
        (f"Recurrent-FFN-Readout ({BEYOND})", None, {}),
        (f"Mamba-2 ({BEYOND})", None, {}),
        *(
            (f"{label} ({XAVIER})", None, {})
            for label in ("Transformer", "Recurrent-FFN", "Recurrent-FFN-Hybrid")
        ),
    ]
    assert printed(SECTION56_PERPLEXITY) == [
        ("Transformer", 174_848, {EARLY: 19.82, seven: 15.24, eleven: 15.62}),
        ("Recurrent-FFN", 173_888, {EARLY: 22.81}),
        ("Recurrent-FFN-Hybrid", 174_080, {EARLY: 21.32, seven: 14.92, eleven: 14.69}),
    ]
    assert printed(SECTION56_MEMORY) == [
        ("Transformer", None, both(7.0, 8.6)),
        ("Mamba-2", None, both(10.2, 8.6)),
        ("Recurrent-FFN", None, both(15.8, 12.7)),
        (f"Recurrent-FFN-Readout ({BEYOND})", None, {}),
        (f"Recurrent-FFN-Hybrid ({BEYOND})", None, {}),
    ]
    for table in TABLES:
        keys = {column.key for column in table.columns}
        assert all(row.paper.keys() <= keys for row in table.trained)


@pytest.mark.parametrize(
    "name", ["tuned_120_steps_lr4e-4_dropout0", "tuned_200_steps_seed7", "tuned_200_steps_seed11"]
)
def test_the_printed_perplexities_are_two_to_the_printed_bits_per_byte(name) -> None:
    printed = published()["section_5_6_recurrent_ffn"][name]
    pairs = [pair for model, pair in printed.items() if not model.startswith("_")]
    assert len(pairs) >= 2
    for bpb, perplexity in pairs:
        # both are rounded: half a unit of the last digit of each
        assert 2 ** (bpb - 0.0005) - 0.005 <= perplexity <= 2 ** (bpb + 0.0005) + 0.005


def test_the_papers_numbers_reproduce_every_claim(like_the_paper) -> None:
    assert [outcomes(table, like_the_paper()) for table in TABLES] == [
        [YES] * 3,
        [*[YES] * 4, YES],
        [YES] * 8,
    ]


def test_without_any_run_nothing_is_decided() -> None:
    for table in TABLES:
        assert {claim.judge({}).text for claim in table.claims} == {"undecided at n = 0 seeds"}


@pytest.mark.parametrize(
    ("table", "changes", "expected"),
    [
        # a win already, and a miss that is no near one
        (SECTION56_FIRST, {FIRST: 5.1}, [YES, NO, YES]),
        (SECTION56_FIRST, {FIRST: 5.3}, [YES, YES, NO]),
        (
            SECTION56_FIRST,
            {FIRST: dict(zip(SEEDS, (5.1, 5.2, 5.1, 5.2, 5.15), strict=True))},
            [YES, OPEN, YES],
        ),
        # the Hybrid ahead after 120 steps, or behind the plain one
        (SECTION56_TUNED, {HYBRID: (4.2, 3.888)}, [YES, NO, NO, YES, NO]),
        (SECTION56_TUNED, {HYBRID: (4.6, 3.888)}, [YES, NO, YES, YES, YES]),
        (SECTION56_TUNED, {PLAIN: (4.35, 4.0)}, [YES, NO, YES, YES, YES]),
        # the plain one ahead of the Transformer as well: nothing more is needed
        (SECTION56_TUNED, {PLAIN: (4.512, 3.8)}, [YES, YES, YES, YES, NO]),
        # no flip
        (SECTION56_TUNED, {HYBRID: (4.414, 4.0)}, [YES, YES, NO, NO, YES]),
        # the four claims after 200 steps, then after 400
        (SECTION56_MEMORY, {"recall64.mamba2": (20.0, 10.2)}, [NO, YES, YES, YES, *[YES] * 4]),
        (SECTION56_MEMORY, {"recall64.transformer": (7.0, 11.0)}, [*[YES] * 4, YES, NO, YES, YES]),
        (SECTION56_MEMORY, {"recall64.transformer": (16.0, 7.0)}, [NO, NO, YES, YES, *[YES] * 4]),
        (SECTION56_MEMORY, {"signal-noise.recurrent-ffn": (12.7, 8.0)}, [*[YES] * 4, YES, YES, NO, YES]),
        (SECTION56_MEMORY, {"signal-noise.transformer": (13.0, 8.6)}, [YES, YES, NO, NO, *[YES] * 4]),
        (SECTION56_MEMORY, {"signal-noise.mamba2": (8.6, 6.0)}, [*[YES] * 4, YES, YES, YES, NO]),
    ],
)
def test_other_numbers_change_the_claims_they_are_about(like_the_paper, table, changes, expected) -> None:
    assert outcomes(table, like_the_paper(changes)) == expected


def test_the_flip_may_hold_in_the_papers_seeds_and_not_over_all(like_the_paper) -> None:
    late = dict(zip(SEEDS, (3.9, 3.9, 4.0, 4.1, 4.0), strict=True))
    runs = like_the_paper({HYBRID: {seed: (4.414, bpb) for seed, bpb in late.items()}})
    _, _, in_seeds, over_all, _ = (claim.judge(runs) for claim in SECTION56_TUNED.claims)
    assert (in_seeds.outcome, over_all.outcome) == (YES, OPEN)
    assert in_seeds.details[1] == "above 0 in 5 of 5 seeds; claimed: in seeds 7 and 11"
    assert in_seeds.details[3] == "below 0 in 2 of 5 seeds; claimed: in seeds 7 and 11"


def test_a_column_of_one_seed_shows_that_run_alone(like_the_paper) -> None:
    runs = like_the_paper({HYBRID: {7: (4.4, 3.9), 13: (4.5, 3.8)}})
    summary = summarise(SECTION56_TUNED, runs)
    lines = {line.label: line for line in summary.lines if line.group != XAVIER}
    early, late, seven, eleven = (cell.ours for cell in lines["Recurrent-FFN-Hybrid"].cells)
    assert early.startswith("4.450 ± ")
    assert late.startswith("3.850 ± ")
    assert (seven, eleven) == ("3.900", NOTHING)
    assert lines["Recurrent-FFN-Hybrid"].num_seeds == 2
    assert [cell.paper for cell in lines["Transformer"].cells] == ["4.309", NOTHING, "3.930", "3.965"]
    assert summary.printed == (True, False, True, True)


def test_the_claims_of_memory_say_after_how_many_steps() -> None:
    claims = SECTION56_MEMORY.claims
    for step, part in zip(MEMORY_STEPS, (claims[:4], claims[4:]), strict=True):
        assert all(claim.statement.startswith(f"After {step} steps: on ") for claim in part)
    assert {claim.source for claim in claims} == {"Section 5.6; the number of steps is ours"}
    shorter = section56_memory((1, 2))
    assert [claim.statement[:13] for claim in shorter.claims[::4]] == ["After 1 steps", "After 2 steps"]
    assert shorter.columns[-1].metric == "accuracy_2_steps"


def test_a_row_of_memory_shows_both_trainings_at_both_lengths(like_the_paper) -> None:
    runs = like_the_paper({"recall64.transformer": (7.0, 20.0), "signal-noise.transformer": (8.6, 30.0)})
    del runs["signal-noise.mamba2"][7]
    summary = summarise(SECTION56_MEMORY, runs)
    lines = {line.label: line for line in summary.lines}
    ours = [cell.ours.partition(" ")[0] for cell in lines["Transformer"].cells]
    assert ours == ["7.0", "20.0", "8.6", "30.0"]
    assert [cell.paper for cell in lines["Recurrent-FFN"].cells] == ["15.8", "15.8", "12.7", "12.7"]
    assert [cell.ours for cell in lines["Any of all values: chance"].cells] == ["6.2"] * 4
    guessing = [cell.ours for cell in lines["Any value that stands there"].cells]
    assert guessing == ["25.0", "25.0", "12.5", "12.5"]
    assert lines["Mamba-2"].num_seeds == 4
    assert "signal-noise.mamba2 4" in " ".join(summary.cautions)
    assert not summary.counted
    facts = dict(summary.facts)
    # one training measures two columns: it is named once
    assert facts["Parameters"].count("signal-noise.mamba2 161,528") == 1
    assert "Mamba-2 161,528" in facts["Parameters"]
    assert facts["Data"] == "recall; signal-noise"


def test_protocols_say_what_the_constants_say() -> None:
    text = " ".join(SECTION56_MEMORY.protocol)
    early, late = MEMORY_STEPS
    assert f"Training on recall and signal versus noise: {late} steps" in text
    assert f"evaluated after {early} and {late} steps" in text
    recipe, base = experiment("recall64.transformer"), experiment("recall.transformer")
    assert (recipe.optim, recipe.loop.batch_size) == (base.optim, base.loop.batch_size)
    assert base.loop.steps == early
    assert f"learning rate of {MEMORY_LR:g}" in text
    assert f"batches of {base.loop.batch_size} sequences" in text
    assert "dropout 0." in text
    assert "MultiheadAttention" not in text
    mamba2 = preset_config("mamba2")
    heads = f"{mamba2.num_heads} heads of {mamba2.inner_width // mamba2.num_heads}"
    assert f"{mamba2.depth} layers, {heads}" in text
    assert f"state dimension of {mamba2.state_dim}" in text


def test_the_terminal_fits_eighty_columns(like_the_paper) -> None:
    page = io.StringIO()
    print_summaries(Console(width=80, file=page), [summarise(table, like_the_paper()) for table in TABLES])
    text = page.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    rows = text.split("Section 5.6, tuned recipe")[1].splitlines()
    place = next(number for number, row in enumerate(rows) if "Recurrent-FFN-Hybrid" in row)
    assert rows[place - 8].split() == ["120", "steps", "200", "steps", "seed", "7", "seed", "11"]
    # ours on a row of its own above the paper's; no paper's number for all seeds after 200 steps
    assert rows[place].split()[1] == "174,080"
    assert rows[place].split()[-1] == "5"
    assert rows[place + 1].split() == ["4.414", "3.899", "3.876"]


def test_the_page_names_groups_columns_and_the_rule_of_named_seeds(like_the_paper) -> None:
    page = render_report([summarise(table, like_the_paper()) for table in TABLES], PAPER)
    for table in TABLES:
        assert f'<section class="study" id="{table.name}"' in page
        assert f'href="#{table.name}"' in page
    tuned = page.split('<section class="study" id="section5.6-tuned"')[1]
    assert '<td class="paper metric" data-label="seed 11, paper">3.876</td>' in tuned
    assert "in 5 of 5 seeds; claimed: in seeds 7 and 11" in tuned
    assert "A claim about named seeds is decided" in page
    assert page.count(f'<th scope="rowgroup" colspan="9">{BEYOND}</th>') == 2


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_figures_render(like_the_paper, table) -> None:
    check_pictures(table, like_the_paper())


def flip(runs):
    """The figure of the flip: kind of point -> places -> record."""
    found = {}
    for record in records_of(SECTION56_TUNED, runs, "section56-flip"):
        if "kind" in record:
            found.setdefault(record["kind"], {})[record["place"]] = record
    return found


def test_the_figure_of_the_flip_shows_every_seed_and_the_papers_two(samples) -> None:
    # binary fractions, so that the differences are exact
    hybrid = {seed: (4.5, 3.75 + 0.125 * number) for number, seed in enumerate((7, 11, 13))}
    points = flip(samples({HYBRID: hybrid, TRANSFORMER: dict.fromkeys((7, 11, 13, 17), (4.25, 4.0))}))
    values = {kind: [record["value"] for record in places.values()] for kind, places in points.items()}
    # the last of each is the mean
    assert values["120 steps"] == [0.25] * 4
    assert values["200 steps"] == [-0.25, -0.125, 0.0, -0.125]
    assert values["paper"] == pytest.approx([3.899 - 3.930, 3.876 - 3.965])
    assert list(points["200 steps"]) == ["seed 7", "seed 11", "seed 13", "mean, 95 % interval"]
    assert points["200 steps"]["mean, 95 % interval"]["low"] < -0.125


def test_the_figure_of_the_flip_with_one_seed_has_no_interval(samples) -> None:
    runs = samples({HYBRID: {13: (4.5, 3.75)}, TRANSFORMER: {13: (4.25, 4.0), 7: (4.25, 4.0)}})
    points = flip(runs)
    assert "paper" not in points
    assert points["200 steps"]["mean, 95 % interval"]["low"] is None


def test_the_figures_of_memory_have_their_own_task_steps_and_baselines(like_the_paper) -> None:
    recall = ([7.0, 10.2, 15.8, 16.0, 16.0], [25.0, 6.25])
    signal = ([8.6, 8.6, 12.7, 13.0, 13.0], [12.5, 6.25])
    for task, (means, exact) in (("recall", recall), ("signal-noise", signal)):
        for step, changed in zip(MEMORY_STEPS, (means[0], 40.0), strict=True):
            family = "recall64" if task == "recall" else task
            runs = like_the_paper({f"{family}.transformer": (means[0], 40.0)})
            name = f"section56-{task}-{step}"
            column = f"{task.replace('-', '_')}_{step}"
            points = values_of(SECTION56_MEMORY, runs, name, column=column)
            assert [value for (value,) in points[OURS].values()] == pytest.approx([changed, *means[1:]])
            assert [value for (value,) in points[EXACT].values()] == exact
            spec = json.dumps(spec_of(SECTION56_MEMORY, runs, name)["transform"])
            assert f'"{column}"' in spec

"""Sections 5.5, 5.6 and 6.3 on speed: Figure 3, and what the paper says is missing beside it.

The paper timed its recurrences as a loop over the tokens in Python. So each model stands here twice: as that
loop, which is what the paper's claims are about, and as this library runs it. Prefill, decoding and memory
are measured apart (studies.beyond.serving).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from unimatrix.bench import recall, throughput
from unimatrix.bench.processes import in_fresh_processes, quiet
from unimatrix.lab.answers import Mean, Said, sentence
from unimatrix.lab.claims import ComparedClaim, Comparison, Measured, Side, Unit
from unimatrix.lab.figures import draw_over_columns
from unimatrix.lab.study import Column, Figure, Measurement, Row, Study, Taken
from unimatrix.models import build, parameter_count, peer_presets, presets
from unimatrix.studies.paper.published import printed, published
from unimatrix.train.config import Experiment, ModelChoice

LENGTHS = (64, 128, 256, 512)
SHORTEST, LONGEST = LENGTHS[0], LENGTHS[-1]
FAST, LOOP = "fast", "loop"
GROUPS = {LOOP: "As the paper ran them: a loop over tokens in Python", FAST: "As this library runs them"}
# torch's LSTM is timed where it is trained, in the study `fair-fight`
TEXT_MODELS = tuple(name for name in (*presets(), *peer_presets()) if name != "lstm")
WITHOUT_LOOP = ("transformer", "transformer-modern", *peer_presets())
RECALL_MODELS = ("transformer", "unimatrix-sparse-pointer")
RECALL_STEPS = 200
REPEATS = 5
REPEAT = "repeat"  # what stands behind a mean here: nothing is trained
MUCH = 2.0  # times, our reading of "much faster"
FLAT = 0.1  # our reading of "roughly flat": within 10 % of equal
TIMES = Unit("times", "times", 2)
DOUBLINGS = Unit("doublings", "doublings", 2)


def timed(model: str, form: str = FAST) -> Experiment:
    """The model behind a row of Figure 3."""
    changes = {"backend": "reference"} if form == LOOP else {}
    return Experiment(name=f"speed.{model}.{form}", model=ModelChoice(preset=model, changes=changes))


def _forms(model: str) -> tuple[str, ...]:
    return (FAST,) if model in WITHOUT_LOOP else (LOOP, FAST)


def take_speed(
    device: str, models: Sequence[str] = TEXT_MODELS, lengths: Sequence[int] = LENGTHS
) -> dict[str, Taken]:
    """One repeat: forward passes of all models and forms in turns, at each length; then steps of recall."""
    same = {"rounds": 1, "seconds": throughput.TURN_SECONDS, "device": device}
    about = {"models": models, "lengths": lengths, "passes": ("forward",), "forms": (FAST, LOOP)}
    about |= {"modes": ("eager",), "ceilings": False, "say": quiet}
    (found,) = in_fresh_processes(throughput.measure, [about | same])
    (steps,) = in_fresh_processes(
        recall.measure,
        [
            {"setting": "recall", "names": RECALL_MODELS, "batch": 32, "length": 128, "modes": ("eager",)}
            | {"forms": (FAST, LOOP)}
            | same
        ],
    )
    at = {(row["model"], row["form"], row["length"]): row["tokens_per_s"] for row in found["rows"]}
    seconds = {(step.model, step.form): RECALL_STEPS * step.timing.median_s for step in steps}
    taken = {}
    for model, form in dict.fromkeys((model, form) for model, form, _ in at):
        speeds = {length: at[model, form, length] for length in lengths}
        base = {length: at["transformer", FAST, length] for length in lengths}
        metrics = _of_speeds(speeds, base)
        if (model, form) in seconds:
            metrics["seconds_recall"] = seconds[model, form]
            metrics["slower_recall"] = seconds[model, form] / seconds["transformer", FAST]
        taken[timed(model, form).name] = Taken(parameters=_parameters(model), metrics=metrics)
    return taken


def _of_speeds(speeds: Mapping[int, float], base: Mapping[int, float]) -> dict[str, float]:
    """The metrics of a row: tokens/s, times slower than the Transformer in the same repeat, and flatness."""
    slower = {length: base[length] / speed for length, speed in speeds.items()}
    flat = speeds[max(speeds)] / speeds[min(speeds)]
    return (
        {f"tokens_{length}": speed for length, speed in speeds.items()}
        | {f"slower_{length}": times for length, times in slower.items()}
        | {f"log2_slower_{length}": math.log2(times) for length, times in slower.items()}
        | {"flatness": flat, "tilt": abs(math.log2(flat))}
    )


def _parameters(model: str) -> int:
    return parameter_count(build(model))


SPEED = Measurement(name="throughput", take=take_speed, repeats=REPEATS)
LABELS = {
    "unimatrix": "unimatrix",
    "transformer": "Transformer",
    "unimatrix-core": "UniMatrix-Core",
    "unimatrix-rosa": "UniMatrix-ROSA",
    "unimatrix-discovery": "UniMatrix-Discovery",
    "unimatrix-rosa-exact": "UniMatrix-ROSA, exact",
    "unimatrix-discovery-exact": "UniMatrix-Discovery, exact",
    "unimatrix-assoc": "UniMatrix-Assoc",
    "unimatrix-sparse-pointer": "SparsePointer",
    "triple-latent": "Triple-Latent",
    "triple-slot": "Triple-Slot",
    "triple-hybrid": "Triple-Hybrid",
    "recurrent-ffn": "Recurrent-FFN",
    "recurrent-ffn-readout": "Recurrent-FFN-Readout",
    "recurrent-ffn-hybrid": "Recurrent-FFN-Hybrid",
    "transformer-modern": "Transformer, modern",
    "unimatrix-hybrid": "UniMatrix-Hybrid",
    "mamba2": "Mamba-2",
    "m2rnn": "M2RNN",
    "transformer-triple": "Transformer, triple",
    "typed-latent": "Typed-Latent",
}


def _printed(model: str, form: str) -> dict[str, float]:
    """What the paper prints: of recurrent models, beside their loops."""
    values: dict[str, float] = {}
    if model == "triple-hybrid" and form == LOOP:
        for key, table in (("tokens", "tokens_per_s"), ("slower", "slower_than_attention")):
            for n in (SHORTEST, LONGEST):
                values[f"{key}_{n}"] = printed("section_5_5_throughput", f"triple-hybrid_{table}", str(n))
    speeds = published()["section_5_6_recurrent_ffn"]["throughput_tokens_per_s"]
    if form == _forms(model)[0]:
        for n in speeds.get(model, ()):
            values[f"tokens_{n}"] = printed("section_5_6_recurrent_ffn", "throughput_tokens_per_s", model, n)
    return values


def _rows(models: Iterable[str] = TEXT_MODELS) -> tuple[Row, ...]:
    pairs = [(model, form) for model in models for form in _forms(model)]
    return tuple(
        Row(
            experiment=timed(model, form),
            label=LABELS[model],
            paper=_printed(model, form),
            group=GROUPS[form],
        )
        for wanted in GROUPS
        for model, form in pairs
        if form == wanted
    )


def _of(model: str, form: str, metric: str) -> Measured:
    return Measured(timed(model, form), metric)


def _slower(model: str, form: str, length: int, side: Side, times: float) -> Comparison:
    return Comparison(
        label=f"{LABELS[model]}, {form}, times slower than the Transformer at {length}, less {times:g}",
        left=_of(model, form, f"slower_{length}"),
        right=times,
        side=side,
        unit=TIMES,
        noun=REPEAT,
    )


def _near_times(model: str, length: int, times: float) -> Comparison:
    return Comparison(
        label=f"{LABELS[model]}, loop, times slower at {length}, in doublings from {times:.1f}",
        left=_of(model, LOOP, f"log2_slower_{length}"),
        right=math.log2(times),
        side="within",
        unit=DOUBLINGS,
        noun=REPEAT,
        bound=1.0,
    )


def _flat(model: str, form: str) -> Comparison:
    return Comparison(
        label=f"{LABELS[model]}, {form}, tokens/s at {LONGEST} over {SHORTEST}, less 1",
        left=_of(model, form, "flatness"),
        right=1.0,
        side="within",
        unit=TIMES,
        noun=REPEAT,
        bound=FLAT,
    )


def _flatter(model: str, form: str) -> Comparison:
    return Comparison(
        label=f"{LABELS[model]}, {form} - Transformer, doublings of tokens/s from {SHORTEST} to {LONGEST}",
        left=_of(model, form, "tilt"),
        right=_of("transformer", FAST, "tilt"),
        side="below",
        unit=DOUBLINGS,
        noun=REPEAT,
    )


FAMILY = ("unimatrix-core", "unimatrix-rosa", "unimatrix-discovery")
LATENT = ("triple-latent", "triple-slot", "triple-hybrid")
RECURRENT = (*FAMILY, *LATENT, "recurrent-ffn", "recurrent-ffn-hybrid")


def _claims() -> tuple[ComparedClaim, ...]:
    of_hybrid = published()["section_5_5_throughput"]["triple-hybrid_slower_than_attention"]
    speeds = published()["section_5_6_recurrent_ffn"]["throughput_tokens_per_s"]
    slower = {
        int(n): speeds["transformer"][n] / speeds["recurrent-ffn-hybrid"][n] for n in speeds["transformer"]
    }
    return (
        ComparedClaim(
            statement="The Transformer is much faster than the models whose recurrence is a loop in Python "
            f"(our reading of much: more than {MUCH:g} times, at {SHORTEST} and at {LONGEST} tokens)",
            judges=("c08", "c09", "c30", "c46"),
            source="Section 5.5, Figure 3",
            comparisons=tuple(
                _slower(model, LOOP, length, "above", MUCH)
                for model in RECURRENT
                for length in (SHORTEST, LONGEST)
            ),
        ),
        ComparedClaim(
            statement="UniMatrix's tokens/s change less with the length than the Transformer's",
            judges=("c31",),
            source="Section 5.5, Figure 3",
            comparisons=tuple(_flatter(model, LOOP) for model in FAMILY),
        ),
        ComparedClaim(
            statement="The latent models' tokens/s stay roughly flat as the sequence grows (our reading: "
            f"at {LONGEST} tokens within {FLAT:.0%} of those at {SHORTEST})",
            judges=("c23",),
            source="Sections 5.2 and 5.5",
            comparisons=tuple(_flat(model, LOOP) for model in LATENT),
        ),
        ComparedClaim(
            statement=f"Triple-Hybrid is {of_hybrid['64']} times slower than attention at 64 tokens and "
            f"{of_hybrid['512']} at 512 (our margin: a factor of 2)",
            judges=("c32",),
            source="Section 5.5",
            comparisons=tuple(_near_times("triple-hybrid", int(n), times) for n, times in of_hybrid.items()),
        ),
        ComparedClaim(
            statement="Recurrent-FFN-Hybrid is "
            f"{', '.join(f'{times:.1f}' for times in slower.values())} times slower than the Transformer at "
            f"{', '.join(map(str, slower))} tokens (our margin: a factor of 2)",
            judges=("c39",),
            source="Section 5.6",
            comparisons=tuple(_near_times("recurrent-ffn-hybrid", n, times) for n, times in slower.items()),
        ),
        ComparedClaim(
            statement="With a fused scan Core competes on wall clock: it is no slower than the Transformer "
            f"at {LONGEST} tokens",
            touches=("c43",),
            source="Section 6.3, which calls for it; the length is ours",
            comparisons=(_slower("unimatrix-core", FAST, LONGEST, "at or below", 1.0),),
        ),
    )


def _recall_claim() -> ComparedClaim:
    # the file has them twice
    tables = ("section_6_training_seconds_200_recall_steps", "section_6_seconds_for_200_recall_steps")
    ranges = {
        (table, model): tuple(printed(table, model, end) for end in (0, 1))
        for table in tables
        for model in RECALL_MODELS
    }
    base, ours = (ranges[tables[0], model] for model in RECALL_MODELS)
    least = ours[0] / base[1]
    return ComparedClaim(
        statement=f"{RECALL_STEPS} steps of recall take SparsePointer {ours[0]:g} to {ours[1]:g} s where the "
        f"Transformer takes {base[0]:g} to {base[1]:g}: at least {least:g} times as long",
        judges=("c43",),
        source="Section 6.3",
        comparisons=(
            Comparison(
                label=f"SparsePointer, loop, times the Transformer's time, less {least:g}",
                left=_of("unimatrix-sparse-pointer", LOOP, "slower_recall"),
                right=least,
                side="at or above",
                unit=TIMES,
                noun=REPEAT,
            ),
        ),
        quotes=tuple(number for pair in ranges.values() for number in pair),
    )


def _columns(prefix: str, titles: Mapping[str, str], axis: str, digits: int) -> tuple[Column, ...]:
    return tuple(
        Column(key=f"{prefix}_{at}", title=title, digits=digits, axis=axis) for at, title in titles.items()
    )


_SPEED_PROTOCOL = (
    f"Forward passes without gradients of batches of 8 sequences, {', '.join(map(str, LENGTHS))} tokens, in "
    "eager mode, as the paper's; D 64, H 4, L 3, random weights.",
    f"{REPEATS} repeats, each in a fresh process while nothing else is trained: the models take turns, a "
    f"turn is as many passes as take {throughput.TURN_SECONDS:g} s (at least one) after an untimed one, and "
    "the median counts. Before, in the same process, each model's fast form must equal its reference form in "
    "float64, and Mamba-2 itself token by token.",
    "A loop is the reference form of the model's recurrences, an operation of PyTorch's after another for "
    "each token. The Transformer's attention is PyTorch's own on both sides, so it stands once.",
    "Times slower is of the same repeat. The paper's tokens/s are from Apple MPS: ratios can be compared, "
    "tokens/s cannot.",
)

CLAIMS = _claims()
MUCH_FASTER, FLATTER, _, _, _, COMPETES = CLAIMS
RECALL_TIME = _recall_claim()


FIGURE3 = Study(
    name="section5.5-throughput",
    title="Figure 3: forward pass, tokens per second by sequence length",
    paper="Section 5.5, Figure 3",
    question="How many tokens a second does each model read, and how does that change with the length?",
    answer=sentence(
        f"At {LONGEST} tokens the Transformer reads {{transformer}} tokens a second, Core {{fast}} as this "
        f"library runs it and {{loop}} as a loop in Python: {{flatter}}.",
        transformer=Mean(_of("transformer", FAST, f"tokens_{LONGEST}"), 0),
        fast=Mean(_of("unimatrix-core", FAST, f"tokens_{LONGEST}"), 0),
        loop=Mean(_of("unimatrix-core", LOOP, f"tokens_{LONGEST}"), 0),
        flatter=Said(
            (FLATTER,),
            "over the lengths the loops change less than the Transformer",
            "over the lengths the loops do not change less than the Transformer",
            "whether the loops change less over the lengths than the Transformer is undecided",
        ),
    ),
    rows=_rows(),
    columns=_columns("tokens", {str(n): f"T {n}" for n in LENGTHS}, "tokens per second", 0),
    claims=(),
    figures=(
        Figure(
            name="figure3",
            title="Figure 3: tokens per second of a forward pass, by sequence length",
            caption="Mean over the repeats with its 95 % interval; diamonds are the paper's values, from "
            "another machine. The Transformer is one and the same in both panels' comparisons. Higher is "
            "better, level is flat.",
            draw=partial(
                draw_over_columns,
                positions={f"tokens_{n}": n for n in LENGTHS},
                labels=("sequence length (tokens)", "tokens per second"),
            ),
        ),
    ),
    protocol=_SPEED_PROTOCOL,
    measurement=SPEED,
)
SECTION55 = Study(
    name="section5.5-ratios",
    title="Section 5.5: times slower than the Transformer, and tokens/s at 512 over those at 64",
    paper="Sections 5.5, 5.6 and 6.3",
    question="How much slower than the Transformer are the recurrent models, and is their speed flat over "
    "the length?",
    answer=sentence(
        f"At {LONGEST} tokens Core takes {{loop}} times as long as the Transformer as a loop in Python and "
        f"{{fast}} times as this library runs it: {{much}}; {{competes}}.",
        loop=Mean(_of("unimatrix-core", LOOP, f"slower_{LONGEST}"), 2),
        fast=Mean(_of("unimatrix-core", FAST, f"slower_{LONGEST}"), 2),
        much=Said(
            (MUCH_FASTER,),
            "all loops are much slower",
            "not all loops are much slower",
            "whether all loops are much slower is undecided",
        ),
        competes=Said(
            (COMPETES,),
            "with a fused scan Core competes",
            "with a fused scan Core does not yet compete",
            "whether Core competes with a fused scan is undecided",
        ),
    ),
    rows=_rows(),
    columns=(
        *_columns("slower", {str(n): f"x at {n}" for n in LENGTHS}, "times slower than the Transformer", 2),
        Column(key="flatness", title="512/64", digits=2, axis="tokens/s at 512 over those at 64"),
    ),
    claims=CLAIMS,
    figures=(),
    protocol=_SPEED_PROTOCOL,
    measurement=SPEED,
)
SECTION63 = Study(
    name="section6.3-recall",
    title=f"Section 6.3: seconds for {RECALL_STEPS} training steps on associative recall",
    paper="Section 6.3",
    question="How long does SparsePointer train where the Transformer trains for seconds?",
    answer=sentence(
        "{ours} seconds as a loop in Python and {fast} as this library runs it, where the Transformer takes "
        "{base}: {verdict}.",
        ours=Mean(_of("unimatrix-sparse-pointer", LOOP, "seconds_recall"), 1),
        fast=Mean(_of("unimatrix-sparse-pointer", FAST, "seconds_recall"), 1),
        base=Mean(_of("transformer", FAST, "seconds_recall"), 1),
        verdict=Said(
            (RECALL_TIME,),
            "as a loop it is as slow as the paper says",
            "as a loop it is not as slow as the paper says",
            "whether the loop is as slow as the paper says is undecided",
        ),
    ),
    rows=_rows(RECALL_MODELS),
    columns=(
        Column(key="seconds_recall", title="Seconds", digits=1, axis="seconds"),
        Column(key="slower_recall", title="Over Transformer", digits=2, axis="times the Transformer's"),
    ),
    claims=(RECALL_TIME,),
    figures=(),
    protocol=(
        f"{RECALL_STEPS} times the median of whole training steps (forward, backward, AdamW) on batches of "
        "32 sequences of 128 tokens, eager, models in turns, in the repeats of Figure 3.",
    ),
    measurement=SPEED,
)

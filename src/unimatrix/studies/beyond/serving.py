"""What section 6.3 says is missing: reading a prompt and writing behind it apart, and exact peak memory."""

from collections.abc import Sequence
from functools import partial

from unimatrix.bench import decode, memory
from unimatrix.bench.processes import in_fresh_processes, quiet
from unimatrix.data.tasks import TripleInteractionConfig
from unimatrix.lab.answers import Mean, sentence
from unimatrix.lab.claims import Measured
from unimatrix.lab.figures import draw_over_columns
from unimatrix.lab.study import Column, Figure, Measurement, Row, Study, Taken
from unimatrix.models import build, parameter_count, task_presets
from unimatrix.studies.paper.throughput import LABELS, TEXT_MODELS
from unimatrix.train.config import Experiment, LoopConfig, ModelChoice

POSITIONS = (128, 512, 2048, 4096)
BATCHES = (1, 32)
MOST_TOKENS = 2**14  # of all prompts together: 32 of 2,048 would take half of the time
REPEATS = 3
MIB = 2**20
PASSES = {"forward": "Forward", "training": "Training"}


def take_decoding(
    device: str, models: Sequence[str] = TEXT_MODELS, positions: Sequence[int] = POSITIONS
) -> dict[str, Taken]:
    """One repeat: all models in turns, for each batch and length of the prompt."""
    about = {"models": models, "positions": positions, "batches": BATCHES, "most_tokens": MOST_TOKENS}
    about |= {"rounds": 1, "seconds": 0.01, "device": device, "say": quiet}
    (found,) = in_fresh_processes(decode.measure, [about])
    taken = {}
    for model in models:
        metrics: dict[str, float] = {}
        for row in found["rows"]:
            if row["model"] == model:
                at = f"batch{row['batch']}_{row['position']}"
                metrics |= {f"first_ms_{at}": row["first_token_ms"], f"token_us_{at}": row["us_per_token"]}
                metrics[f"state_bytes_{at}"] = row["state_bytes"]
        parameters = parameter_count(build(model))
        taken[served(model).name] = Taken(parameters=parameters, metrics=metrics)
    return taken


def take_memory(
    device: str, models: Sequence[str] = (*TEXT_MODELS, *task_presets()), length: int = memory.LENGTH
) -> dict[str, Taken]:
    """Every model's two passes, each model in a fresh process."""
    found = memory.measure(models=models, device=device, length=length)
    return {
        weighed(model).name: Taken(
            parameters=parameter_count(build(model)),
            metrics={
                f"{row['what']}_{name}_mib": row[f"{name}_bytes"] / MIB
                for row in found
                if row["model"] == model
                for name in ("taken", "before", "peak")
            },
        )
        for model in models
    }


def served(model: str) -> Experiment:
    """The model behind a row of decoding."""
    return Experiment(name=f"decoding.{model}", model=ModelChoice(preset=model, max_positions=None))


def weighed(model: str) -> Experiment:
    """The model behind a row of memory."""
    choice, name = ModelChoice(preset=model, max_positions=None), f"memory.{model}"
    if model not in task_presets():
        return Experiment(name=name, model=choice)
    task = TripleInteractionConfig()
    return Experiment(name=name, model=choice, task=task, loop=LoopConfig(seq_len=task.length))


def _decoding(batch: int) -> Study:
    positions = [at for at in POSITIONS if batch * at <= MOST_TOKENS]
    texts = "one text" if batch == 1 else f"{batch} texts at once"
    first = [
        Column(
            key=f"first_ms_batch{batch}_{at}",
            title=f"First, {at}",
            digits=1,
            axis=f"ms to the first token behind {at} others, {texts}",
        )
        for at in positions
    ]
    each = [
        Column(
            key=f"token_us_batch{batch}_{at}",
            title=f"Each, {at}",
            digits=0,
            axis=f"us per token behind {at} others, {texts}",
        )
        for at in positions
    ]

    def figure(name: str, title: str, keys: Sequence[Column], label: str) -> Figure:
        return Figure(
            name=f"decoding-{batch}-{name}",
            title=f"{title}, {texts}",
            caption="Mean over the repeats with its 95 % interval. Lower is better.",
            draw=partial(
                draw_over_columns,
                positions={column.key: at for column, at in zip(keys, positions, strict=True)},
                labels=("tokens before", label),
            ),
        )

    def after(model: str, column: Column, digits: int) -> Mean:
        return Mean(Measured(served(model), column.key), digits)

    models = ("transformer", "unimatrix-core")
    return Study(
        name=f"decoding-{batch}",
        title=f"Prefill and decoding, {texts}: ms to the first token, us for each token after it",
        question="How long until the first token behind a prompt, and how long for each after it?",
        answer=sentence(
            f"Behind {positions[-1]:,} tokens the Transformer takes {{base}} ms to the first token and "
            f"{{base_each}} us for each after it, Core {{core}} ms and {{core_each}} us.",
            **{
                name: after(model, columns[-1], digits)
                for model, names in zip(models, (("base", "base_each"), ("core", "core_each")), strict=True)
                for name, columns, digits in zip(names, (first, each), (1, 0), strict=True)
            },
        ),
        rows=tuple(Row(experiment=served(model), label=LABELS[model]) for model in TEXT_MODELS),
        columns=(*first, *each),
        claims=(),
        figures=(
            figure("first", "Time to the first token", first, "ms to the first token"),
            figure("each", "Time per token", each, "us per token"),
        ),
        protocol=(
            "Time to the first token: a prompt of so many tokens is read from nothing, with the logits of "
            "its last token alone. Time per token: behind it and one token more, so that the state is the "
            f"newest of its text, {decode.TOKENS_PER_CALL} tokens are read one by one"
            f"{', each a step of the whole batch' if batch > 1 else ''}. Eager mode, no learned positions.",
            f"{REPEATS} repeats, each in a fresh process; all models in turns. Before, each model's logits "
            "one token at a time must be those of the whole.",
        ),
        measurement=DECODING,
    )


DECODING = Measurement(name="decoding", take=take_decoding, repeats=REPEATS, version=2)
DECODING_STUDIES = tuple(_decoding(batch) for batch in BATCHES)
MEMORY = Study(
    name="memory",
    title=f"Peak memory in MiB, {memory.BATCH} sequences of {memory.LENGTH} tokens",
    question="How much memory does a model take at its peak, weights and all?",
    answer=sentence(
        f"A training step of {memory.BATCH} sequences of {memory.LENGTH} tokens takes {{base}} MiB with the "
        f"Transformer and {{core}} MiB with Core.",
        base=Mean(Measured(weighed("transformer"), "training_taken_mib"), 1),
        core=Mean(Measured(weighed("unimatrix-core"), "training_taken_mib"), 1),
    ),
    rows=tuple(
        Row(experiment=weighed(model), label=LABELS[model]) for model in (*TEXT_MODELS, *task_presets())
    ),
    columns=tuple(
        Column(
            key=f"{what}_taken_mib", title=title, digits=1, axis=f"MiB at the peak of a {title.lower()} pass"
        )
        for what, title in PASSES.items()
    ),
    claims=(),
    figures=(),
    protocol=(
        "A forward pass without gradients, and a whole training step (forward, backward, AdamW), both with "
        "the model's weights, each model in a fresh process. What is counted, on a CPU: the "
        f"{memory.METHODS['VmHWM']}; where the peak cannot be reset, the {memory.METHODS['ru_maxrss']}. On a "
        f"GPU: {memory.METHODS['cuda']}. The code is loaded and compiled before, by the same pass on a few "
        "tokens. Both numbers behind each difference stand in results.jsonl (before, peak).",
    ),
    measurement=Measurement(name="memory", take=take_memory, repeats=1),
)

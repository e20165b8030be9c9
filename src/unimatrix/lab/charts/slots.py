"""A slot memory over time: what each slot holds, what is read, how the answer comes about.

The data are those of unimatrix.evals.inspection.
"""

import altair as alt

from unimatrix.evals.inspection import SlotHistory, Step, Traced
from unimatrix.lab.charts import theme
from unimatrix.lab.charts.records import Record
from unimatrix.lab.charts.theme import Drawing, Layers
from unimatrix.ops.slot_memory import EMPTY

_FAINTEST_READ = 0.02
_MOST_SLOTS = 64  # more rows than that are no longer told apart
_STEP = 22  # from slot to slot: the upper half holds the name of what is held, the lower one the reads
_LETTER = 6.0  # pixels of one at the size of the labels
_MARGIN = 130  # left and right of the bands, for the slots' numbers and what they hold at the end


def draw_slots(traced: Traced) -> Drawing:
    """The picture of a trace: what each slot holds over time, what is read, how the answer comes about."""
    history = traced.history
    slots = _used_slots(history)
    return (
        alt.vconcat(
            _over_time(traced, slots),
            _last_read(traced, slots),
            _answer(traced),
            spacing=26,
        )
        .resolve_legend(color="independent")
        .properties(usermeta={"margin": _MARGIN + 20, "least": theme.WIDTH + 20})
    )


def _used_slots(history: SlotHistory) -> list[int]:
    held = {slot for step in history.steps for slot, key in enumerate(step.keys) if key != EMPTY}
    written = {step.written for step in history.steps if step.written is not None}
    return sorted(held | written)[:_MOST_SLOTS]


def _binding(traced: Traced, step: Step, slot: int) -> str:
    return f"{traced.name(step.keys[slot])}→{traced.name(step.values[slot])}"


def _held(traced: Traced, slot: int) -> list[Record]:
    """A record for everything that a slot held, until the next write; fits: its name has room there."""
    found: list[Record] = []
    steps = traced.history.steps
    for at, step in enumerate(steps):
        if step.values[slot] == EMPTY:
            continue
        binding = (step.keys[slot], step.values[slot])
        if not found or found[-1]["binding"] != binding:
            found.append(
                {"slot": slot, "start": at, "binding": binding, "holds": _binding(traced, step, slot)}
            )
        found[-1]["stop"] = at + 1
    for record in found:
        del record["binding"]
        room = (record["stop"] - record["start"]) / len(steps) * (theme.WIDTH - _MARGIN)
        record["fits"] = room > _LETTER * len(record["holds"]) + 6
    return found


def _over_time(traced: Traced, slots: list[int]) -> Layers:
    """A band for each slot: what it holds until the next write, and at its lower edge where it is read."""
    steps = traced.history.steps
    held = [_held(traced, slot) for slot in slots]
    reads = [
        {
            "slot": slot,
            "start": at,
            "stop": at + 1,
            "weight": step.weights[slot],
            "token": traced.name(step.token),
        }
        for at, step in enumerate(steps)
        for slot in slots
        if step.weights[slot] > _FAINTEST_READ
    ]
    x = alt.X(
        "start:Q",
        title="position; names at the right: what is held at the end",
        axis=alt.Axis(grid=False),
        scale=alt.Scale(domain=[0, len(steps)], nice=False),
    )
    y = alt.Y("slot:O", title="slot", sort=slots, axis=alt.Axis(domain=False, ticks=False))
    bars = alt.Chart(theme.data([record for records in held for record in records])).encode(x=x, y=y)
    names = {"align": "left", "fontSize": 10, "baseline": "middle"}
    position = alt.Tooltip("start:Q", title="position")
    return alt.layer(
        bars.mark_bar(height=_STEP - 2, stroke=theme.PAGE, strokeWidth=1, color=theme.FAINT).encode(
            x2="stop:Q",
            tooltip=[
                "slot:O",
                "holds:N",
                alt.Tooltip("start:Q", title="from"),
                alt.Tooltip("stop:Q", title="to"),
            ],
        ),
        bars.transform_filter("datum.fits").mark_text(xOffset=4, yOffset=-3, **names).encode(text="holds:N"),
        alt.Chart(theme.data(reads))
        .mark_bar(height=6, yOffset=6.5, color=theme.OURS)
        .encode(
            x=x,
            x2="stop:Q",
            y=y,
            opacity=alt.Opacity("weight:Q", scale=alt.Scale(domain=[0, 1], range=[0.2, 1]), legend=None),
            tooltip=[
                "slot:O",
                position,
                alt.Tooltip("token:N", title="read for"),
                alt.Tooltip("weight:Q", format=".3f"),
            ],
        ),
        alt.Chart(theme.data([records[-1] for records in held if records]))
        .mark_text(xOffset=6, **names)
        .encode(x=alt.value("width"), y=y, text="holds:N"),
        title="What each slot holds (key→value); blue: where it is read, the fuller the more",
        width=theme.WIDTH - _MARGIN,
        height=alt.Step(_STEP),
    )


def _last_read(traced: Traced, slots: list[int]) -> alt.Chart:
    step = traced.history.steps[-1]
    read = [
        {"slot": f"slot {slot}: {_binding(traced, step, slot)}", "weight": step.weights[slot]}
        for slot in sorted(slots, key=lambda slot: -step.weights[slot])
        if step.weights[slot] > _FAINTEST_READ
    ]
    return (
        alt.Chart(theme.data(read))
        .mark_bar(height=12, color=theme.OURS)
        .encode(
            x=alt.X("weight:Q", title="weight", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("slot:N", sort=None, title=None, axis=alt.Axis(domain=False, ticks=False)),
            tooltip=["slot:N", alt.Tooltip("weight:Q", format=".3f")],
        )
        .properties(
            title=f"Read at the end, where {traced.name(step.token)} asks",
            width=theme.WIDTH - _MARGIN,
            height=alt.Step(20),
        )
    )


def _answer(traced: Traced) -> alt.Chart:
    """The likeliest answers: for each the two parts whose sum is its logit."""
    parts = ["the vocabulary's own", "the pointer's vote"]
    shown = [
        {"answer": f"{name} (right)" if name == traced.expected else name, "part": part, "logit": value}
        for choice in traced.history.steps[-1].choices
        for name in (traced.name(choice.token),)
        for part, value in zip(parts, (choice.word, choice.vote), strict=True)
    ]
    color = alt.Scale(domain=parts, range=[theme.SOFT, theme.OURS])
    return (
        alt.Chart(theme.data(shown))
        .mark_bar(height=9)
        .encode(
            x=alt.X("logit:Q", title="logit: the sum of both"),
            y=alt.Y("answer:N", sort=None, title=None, axis=alt.Axis(domain=False, ticks=False)),
            yOffset=alt.YOffset("part:N", sort=parts),
            color=alt.Color("part:N", scale=color, legend=theme.legend(parts)),
            tooltip=["answer:N", "part:N", alt.Tooltip("logit:Q", format="+.2f")],
        )
        .properties(
            title="Likeliest answers", width=theme.WIDTH - _MARGIN, height=alt.Step(26, **{"for": "position"})
        )
    )

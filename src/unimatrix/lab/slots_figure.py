"""A slot memory over time, drawn: what each slot holds, what is read, how the answer comes about.

The data are those of unimatrix.evals.inspection.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.patheffects import withStroke

from unimatrix.evals.inspection import Choice, SlotHistory, Step, Traced
from unimatrix.lab.charts import Style
from unimatrix.ops.slot_memory import EMPTY

_LABEL_POSITIONS = 9  # a binding held for fewer positions than that has no room for its label
_FAINTEST_READ = 0.02
_MOST_SLOTS = 64  # more rows than that are no longer told apart


def draw_slots(traced: Traced, style: Style) -> Drawing:
    """The picture of what `unimatrix.lab.inspection.trace_checkpoint` gave."""
    history = traced.history
    slots = _used_slots(history)
    drawing = Drawing(
        figsize=(10.5, 1.7 + 0.19 * max(len(slots), 8)), layout="constrained", facecolor=style.page
    )
    over_time, last_read, answer = drawing.subplots(1, 3, width_ratios=(7.5, 1.1, 2.2))
    for axes in (over_time, last_read, answer):
        _plain(axes, style)
    _draw_over_time(over_time, history, slots, traced, style)
    _draw_last_read(last_read, history.steps[-1], slots, traced, style)
    _draw_answer(answer, history.steps[-1].choices, traced, style)
    return drawing


def _plain(axes: Axes, style: Style) -> None:
    axes.set_facecolor(style.page)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(style.faint)
    axes.tick_params(colors=style.ink, length=2, labelsize=7.5)
    axes.title.set_color(style.ink)
    axes.xaxis.label.set_color(style.ink)


def _used_slots(history: SlotHistory) -> list[int]:
    held = {slot for step in history.steps for slot, key in enumerate(step.keys) if key != EMPTY}
    written = {step.written for step in history.steps if step.written is not None}
    return sorted(held | written)[:_MOST_SLOTS]


def _draw_over_time(
    axes: Axes, history: SlotHistory, slots: Sequence[int], traced: Traced, style: Style
) -> None:
    length = len(history.steps)
    for row, slot in enumerate(slots):
        for number, (start, stop, binding) in enumerate(_bindings(history, slot)):
            axes.broken_barh(
                [(start, stop - start)],
                (row - 0.42, 0.84),
                facecolor=style.faint,
                alpha=0.5 if number % 2 else 0.28,
                linewidth=0,
            )
            if stop - start >= _LABEL_POSITIONS:
                axes.text(
                    start + 0.4,
                    row,
                    _binding_text(binding, traced),
                    fontsize=6,
                    va="center",
                    color=style.ink,
                    zorder=4,
                    # readable where a read lies under it
                    path_effects=[withStroke(linewidth=1.6, foreground=style.page)],
                )
    reads = [
        (t + 0.5, row, step.weights[slot])
        for t, step in enumerate(history.steps)
        for row, slot in enumerate(slots)
        if step.weights[slot] > _FAINTEST_READ
    ]
    if reads:
        x, y, weight = zip(*reads, strict=True)
        axes.scatter(x, y, s=[16 * w for w in weight], marker="s", color=style.ours, linewidths=0)
    axes.set_xlim(0, length)
    axes.set_ylim(len(slots) - 0.4, -0.6)
    axes.set_yticks(range(len(slots)), [str(slot) for slot in slots])
    axes.set_title("What each slot holds (key→value), and reads of it", loc="left", fontsize=9)
    axes.set_xlabel("position; the area of a square is the weight of the read", fontsize=8)


def _bindings(history: SlotHistory, slot: int) -> list[tuple[int, int, tuple[int, int]]]:
    """(first position, position after the last, (key, value)) of everything that a slot held."""
    found: list[tuple[int, int, tuple[int, int]]] = []
    for t, step in enumerate(history.steps):
        binding = (step.keys[slot], step.values[slot])
        if binding[1] == EMPTY:
            continue
        if found and found[-1][2] == binding:
            found[-1] = (found[-1][0], t + 1, binding)
        else:
            found.append((t, t + 1, binding))
    return found


def _binding_text(binding: tuple[int, int], traced: Traced) -> str:
    key, value = binding
    return f"{traced.name(key)}→{traced.name(value)}"


def _draw_last_read(axes: Axes, step: Step, slots: Sequence[int], traced: Traced, style: Style) -> None:
    weights = [step.weights[slot] for slot in slots]
    axes.barh(range(len(slots)), weights, height=0.7, color=style.ours)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(slots) - 0.4, -0.6)
    axes.set_yticks([])
    axes.set_xticks([0, 1])
    axes.set_title(f"Read at the end\n({traced.name(step.token)} asks)", loc="left", fontsize=9)
    axes.set_xlabel("weight", fontsize=8)


def _draw_answer(axes: Axes, choices: Sequence[Choice], traced: Traced, style: Style) -> None:
    rows = range(len(choices))
    words = [choice.word for choice in choices]
    axes.barh(rows, words, height=0.36, color=style.faint, label="vocabulary")
    places = [row + 0.4 for row in rows]
    axes.barh(places, [c.vote for c in choices], height=0.36, color=style.ours, label="pointer's vote")
    names = [traced.name(choice.token) for choice in choices]
    labels = [f"{name}{' ✓' if name == traced.expected else ''}" for name in names]
    axes.set_yticks([row + 0.2 for row in rows], labels)
    axes.set_ylim(len(choices) - 0.2, -0.6)
    axes.axvline(0, color=style.faint, linewidth=0.8)
    axes.set_title("Likeliest answers", loc="left", fontsize=9)
    axes.set_xlabel("logit = vocabulary + vote", fontsize=8)
    axes.legend(loc="lower right", frameon=False, fontsize=7.5, labelcolor=style.ink)

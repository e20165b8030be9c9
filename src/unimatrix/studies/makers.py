"""What studies share: columns that many have, and figures of one column."""

from functools import partial

from unimatrix.lab.figures import draw_metric
from unimatrix.lab.study import Column, Figure

BITS_PER_BYTE = Column(key="bpb", title="BPB", digits=3, axis="validation bits per byte")

NOT_IN_THE_PAPER = "Not in the paper"
UNTRAINED = "Without training"


def of_column(
    name: str,
    title: str,
    key: str,
    *,
    diamonds: str = "the paper's values",
    bars: str = "",
    higher: bool = False,
) -> Figure:
    """A figure of one column, a line for each row. diamonds, bars: what they stand for; "" for none."""
    marks = [f"{mark} are {what}" for mark, what in (("diamonds", diamonds), ("bars", bars)) if what]
    told = "; ".join(["Mean over the seeds with its 95 % interval, each seed as a small point", *marks])
    caption = f"{told}. {'Higher' if higher else 'Lower'} is better."
    return Figure(name=name, title=title, caption=caption, draw=partial(draw_metric, key=key))

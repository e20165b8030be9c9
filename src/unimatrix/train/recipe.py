"""What `unimatrix train mytext.txt` runs, and on a task; the learning rate that goes with a model's width."""

from dataclasses import replace

from unimatrix.data import VOCAB_SIZE
from unimatrix.data.tasks import TASKS
from unimatrix.errors import UserError, shown
from unimatrix.models import ModelConfig
from unimatrix.train.config import Experiment, LoopConfig, ModelChoice, OptimConfig

PRESET = "unimatrix"
# what was tried for them is in docs/log.md; the rule is held to by the study learning-rate
TUNED_RATE, TUNED_WIDTH, EXPONENT = 6e-3, 64, 1.5
RATE_OF_OTHERS = 2e-3

# minutes on a laptop, without positions so that text of any length can follow, begun at BOS now and then so
# that an empty prompt can be answered, and saved often enough that a kill loses little
OWN_TEXT = Experiment(
    name="own-text",
    model=ModelChoice(preset=PRESET, dropout=0.0, max_positions=None),
    optim=OptimConfig(lr=TUNED_RATE, warmup_steps=50, schedule="cosine", final_lr_share=0.1, clip=1.0),
    loop=LoopConfig(
        steps=2000,
        batch_size=4,
        seq_len=512,
        bos_share=0.1,
        eval_every=100,
        eval_bytes=65_536,
        save_every=100,
    ),
)


def on_task(kind: str) -> Experiment:
    """What `unimatrix train --task KIND` runs: the task as its defaults are, else as for a text of one's own.

    Raises:
        UserError: no such task.
    """
    if kind not in TASKS:
        raise UserError(f"task: expected one of {', '.join(TASKS)}, got {shown(kind)}")
    task = TASKS[kind].config()
    loop = replace(
        OWN_TEXT.loop, steps=1000, batch_size=32, seq_len=task.length, bos_share=None, eval_bytes=None
    )
    return replace(OWN_TEXT, name=kind, task=task, loop=loop)


def rate_of_width(d_model: int) -> float:
    """The learning rate of the preset `unimatrix` at a width, to three digits; never above the tuned one."""
    return float(f"{TUNED_RATE * min(1.0, TUNED_WIDTH / d_model) ** EXPONENT:.3g}")


def rate_for(choice: ModelChoice) -> float:
    """The learning rate of a model that none is given for: the preset's by its width, of others one for all.

    Raises:
        UserError: changes that the model cannot have.
    """
    if choice.preset != PRESET:
        return RATE_OF_OTHERS
    config = choice.resolved(VOCAB_SIZE)
    assert isinstance(config, ModelConfig), "the preset is a model of parts"
    return rate_of_width(config.d_model)

"""What training takes at the least, compared with what is there before a text is read or a model built.

B windows of a piece, T = seq_len, V vocabulary, D width.
"""

import torch

from unimatrix.data import VOCAB_SIZE
from unimatrix.data.tasks import task_of
from unimatrix.evals.model import memory_of
from unimatrix.evals.tasks import DRAWN_TOGETHER
from unimatrix.memory import check_fits, host_bytes, in_words
from unimatrix.models import ModelConfig, estimate
from unimatrix.models.estimate import least_state_bytes
from unimatrix.train.config import Experiment
from unimatrix.train.launch import processes_started

_FLOAT = 4
_ID = 8
# a weight, its gradient and AdamW's two moments
_OF_A_WEIGHT = 4 * _FLOAT


def check_memory(experiment: Experiment) -> None:
    """Raise a UserError with an estimate, which is always too low, unless that fits into memory."""
    choice, optim, loop, task = experiment.model, experiment.optim, experiment.loop, experiment.task
    vocab_size = VOCAB_SIZE if task is None else task.vocab_size
    config = choice.resolved(vocab_size)
    num_processes = processes_started()
    windows = -(-loop.batch_size // (num_processes * optim.accumulation))
    tokens = windows * loop.seq_len
    weights = estimate(config).parameters * _OF_A_WEIGHT
    few = task is not None and task_of(task).logits_where_asked and isinstance(config, ModelConfig)
    answers = windows * getattr(task, "num_asked", 1) if few else tokens
    # ids and labels of the whole batch; log-probabilities and their gradient; what each depth step keeps
    batch = loop.batch_size * loop.seq_len * 2 * _ID + answers * vocab_size * 2 * _FLOAT
    if isinstance(config, ModelConfig):
        batch += config.depth * tokens * config.d_model * _FLOAT + windows * least_state_bytes(config)
    sizes = dict(choice.changes) | {"max_positions": choice.max_positions, "vocab_size": vocab_size}
    # a task's length is its own setting
    sizes |= {"batch_size": loop.batch_size, "seq_len" if task is None else "length": loop.seq_len}
    given = ", ".join(f"{name} {size:,}" for name, size in sizes.items() if type(size) is int)
    what = (
        f"preset {choice.preset}, {given}: training "
        f"(weights and optimiser {in_words(weights)}, a batch {in_words(batch)})"
    )
    check_fits(weights + batch, what=what, there=memory_of(_device(experiment)))
    if task is not None:  # what comes at the end is not to fail there
        rows = min(DRAWN_TOGETHER, task.eval_sequences)
        for variant in (task, *task_of(task).variants(task).values()):
            check_fits(
                rows * variant.length * 2 * _ID,
                what=f"evaluation: {rows:,} sequences of length {variant.length:,}",
                there=host_bytes(),
            )


def _device(experiment: Experiment) -> torch.device:
    """Where it will run; what is asked for but not there is told elsewhere."""
    there = torch.cuda.is_available() and experiment.loop.device in ("auto", "cuda")
    return torch.device("cuda" if there else "cpu")

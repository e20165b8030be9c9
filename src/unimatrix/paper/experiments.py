"""The paper's experiments by name: each a function that returns everything a run needs.

Table 1's are written out below, those on associative recall in `recall_experiments`.
"""

from collections.abc import Callable
from difflib import get_close_matches

from unimatrix.errors import UserError
from unimatrix.paper.recall_experiments import RECALL_EXPERIMENTS
from unimatrix.train.config import Experiment, LoopConfig, ModelChoice, OptimConfig


def _table1(preset: str) -> Experiment:
    # spelled out though they are the defaults: a default may change, the paper's recipe may not
    return Experiment(
        name=f"table1.{preset}",
        model=ModelChoice(preset=preset, dropout=0.1, max_positions=128),
        optim=OptimConfig(lr=3e-4, weight_decay=0.01, schedule="constant", warmup_steps=0, clip=None),
        # the evaluations on the way draw the curves, on a part of the text; the last one is on the whole
        loop=LoopConfig(steps=80, batch_size=16, seq_len=128, eval_every=20, eval_bytes=65_536),
    )


def table1_transformer() -> Experiment:
    """Table 1, the Transformer baseline."""
    return _table1("transformer")


def table1_unimatrix_core() -> Experiment:
    """Table 1, UniMatrix-Core: the outer-product update alone."""
    return _table1("unimatrix-core")


def table1_unimatrix_rosa() -> Experiment:
    """Table 1, UniMatrix-ROSA: Core with the residual path from the previous token."""
    return _table1("unimatrix-rosa")


def table1_unimatrix_discovery() -> Experiment:
    """Table 1, UniMatrix-Discovery: rule mixing, ROSA path, DeepEmbed, step embeddings, spectral norm."""
    return _table1("unimatrix-discovery")


EXPERIMENTS: dict[str, Callable[[], Experiment]] = {
    "table1.transformer": table1_transformer,
    "table1.unimatrix-core": table1_unimatrix_core,
    "table1.unimatrix-rosa": table1_unimatrix_rosa,
    "table1.unimatrix-discovery": table1_unimatrix_discovery,
    **RECALL_EXPERIMENTS,
}


def experiment(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        UserError: there is none; names the near ones, or all.
    """
    if name not in EXPERIMENTS:
        near = get_close_matches(name, EXPERIMENTS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(EXPERIMENTS)}"
        raise UserError(f"unknown experiment {name!r}; {hint}")
    return EXPERIMENTS[name]()

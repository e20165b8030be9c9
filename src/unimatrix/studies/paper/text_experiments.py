"""The experiments of Table 1, and the recipe on text that Table 2 and the training length share with it."""

from collections.abc import Callable
from dataclasses import replace

from unimatrix.train.config import Experiment, LoopConfig, ModelChoice, OptimConfig


def text_experiment(name: str, model: ModelChoice) -> Experiment:
    """That model trained as the paper trains on text: 80 steps on 16 windows of 128 bytes, dropout 0.1."""
    # spelled out though they are the defaults: a default may change, the paper's recipe may not
    return Experiment(
        name=name,
        model=replace(model, dropout=0.1, max_positions=128),
        optim=OptimConfig(lr=3e-4, weight_decay=0.01, schedule="constant", warmup_steps=0, clip=None),
        # the evaluations on the way draw the curves, on a part of the text; the last one is on the whole
        loop=LoopConfig(steps=80, batch_size=16, seq_len=128, eval_every=20, eval_bytes=65_536),
    )


def _table1(preset: str) -> Experiment:
    return text_experiment(f"table1.{preset}", ModelChoice(preset=preset))


def table1_transformer() -> Experiment:
    """Tables 1 and 2, the Transformer baseline."""
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


TEXT_EXPERIMENTS: dict[str, Callable[[], Experiment]] = {
    "table1.transformer": table1_transformer,
    "table1.unimatrix-core": table1_unimatrix_core,
    "table1.unimatrix-rosa": table1_unimatrix_rosa,
    "table1.unimatrix-discovery": table1_unimatrix_discovery,
}

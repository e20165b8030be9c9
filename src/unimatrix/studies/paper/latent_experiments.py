"""The experiments on latent compression: Table 2's text and recall, and training length.

`table2.*` have Table 1's recipe, `recall.triple-*` that of Table 3, so that the Transformer's runs there are
this table's too. `length.*` are Table 1's recipe for 1,000 steps, which the paper does not have.
"""

from collections.abc import Callable
from dataclasses import replace

from unimatrix.studies.paper.recall_experiments import recall_experiment
from unimatrix.studies.paper.text_experiments import text_experiment
from unimatrix.train.config import Experiment, ModelChoice

# the paper's own 80 steps, and on to where the models have left the letters' frequencies behind
LENGTH_STEPS = (80, 200, 400, 1000)

TRIPLE_LATENT = ModelChoice(preset="triple-latent")
TRIPLE_SLOT = ModelChoice(preset="triple-slot")
TRIPLE_HYBRID = ModelChoice(preset="triple-hybrid")


def _narrower(model: ModelChoice, d_model: int) -> ModelChoice:
    """The parameter-matched model: a narrower stream, the heads' states as wide as before."""
    return replace(model, changes={"d_model": d_model, "num_heads": 4, "state_dim": 16})


def _length(name: str, preset: str) -> Experiment:
    whole = text_experiment(name, ModelChoice(preset=preset))
    return replace(
        whole,
        loop=replace(
            whole.loop, steps=LENGTH_STEPS[-1], eval_every=None, eval_bytes=None, eval_at=LENGTH_STEPS
        ),
    )


def table2_triple_latent() -> Experiment:
    """Table 2, matched width: Triple-Latent."""
    return text_experiment("table2.triple-latent", TRIPLE_LATENT)


def table2_triple_slot() -> Experiment:
    """Table 2, matched width: Triple-Slot."""
    return text_experiment("table2.triple-slot", TRIPLE_SLOT)


def table2_triple_hybrid() -> Experiment:
    """Table 2, matched width: Triple-Hybrid."""
    return text_experiment("table2.triple-hybrid", TRIPLE_HYBRID)


def table2_triple_latent_d60() -> Experiment:
    """Table 2, about the Transformer's parameters: Triple-Latent with d = 60."""
    return text_experiment("table2.triple-latent-d60", _narrower(TRIPLE_LATENT, 60))


def table2_triple_slot_d60() -> Experiment:
    """Table 2, about the Transformer's parameters: Triple-Slot with d = 60."""
    return text_experiment("table2.triple-slot-d60", _narrower(TRIPLE_SLOT, 60))


def table2_triple_hybrid_d56() -> Experiment:
    """Table 2, about the Transformer's parameters: Triple-Hybrid with d = 56."""
    return text_experiment("table2.triple-hybrid-d56", _narrower(TRIPLE_HYBRID, 56))


def recall_triple_latent() -> Experiment:
    """Table 2, recall: Triple-Latent."""
    return recall_experiment("recall.triple-latent", TRIPLE_LATENT, dropout=0.1)


def recall_triple_slot() -> Experiment:
    """Table 2, recall: Triple-Slot."""
    return recall_experiment("recall.triple-slot", TRIPLE_SLOT, dropout=0.1)


def recall_triple_hybrid() -> Experiment:
    """Table 2, recall: Triple-Hybrid."""
    return recall_experiment("recall.triple-hybrid", TRIPLE_HYBRID, dropout=0.1)


def length_transformer() -> Experiment:
    """Not in the paper: the Transformer for 1,000 steps."""
    return _length("length.transformer", "transformer")


def length_unimatrix_core() -> Experiment:
    """Not in the paper: UniMatrix-Core for 1,000 steps."""
    return _length("length.unimatrix-core", "unimatrix-core")


def length_triple_hybrid() -> Experiment:
    """Not in the paper: Triple-Hybrid for 1,000 steps."""
    return _length("length.triple-hybrid", "triple-hybrid")


LATENT_EXPERIMENTS: dict[str, Callable[[], Experiment]] = {
    "table2.triple-latent": table2_triple_latent,
    "table2.triple-slot": table2_triple_slot,
    "table2.triple-hybrid": table2_triple_hybrid,
    "table2.triple-latent-d60": table2_triple_latent_d60,
    "table2.triple-slot-d60": table2_triple_slot_d60,
    "table2.triple-hybrid-d56": table2_triple_hybrid_d56,
    "recall.triple-latent": recall_triple_latent,
    "recall.triple-slot": recall_triple_slot,
    "recall.triple-hybrid": recall_triple_hybrid,
    "length.transformer": length_transformer,
    "length.unimatrix-core": length_unimatrix_core,
    "length.triple-hybrid": length_triple_hybrid,
}

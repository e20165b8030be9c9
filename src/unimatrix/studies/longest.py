"""Which experiments take the longest: apart from all others, so that a list of runs needs no torch."""

# the longest: not trained by `unimatrix reproduce` without --full, which shows committed runs of them
_LONGEST = frozenset(
    {
        "triple.sparse-pointer-10x",
        "triple.sparse-pointer",
        "recall64.mamba2",
        "signal-noise.mamba2",
        "ffn-tuned.mamba2",
        "length.transformer",
        "length.unimatrix-core",
        "length.triple-hybrid",
        "recall.unimatrix-discovery",
        "recall.triple-hybrid",
        "recall-no-dropout.unimatrix-assoc",
    }
)
# all that are called so: models that read a whole stream besides, or sequences of any length;
# and variants of one
_FAMILIES = (
    *("store.", "stream.", "binding.", "depth-text.", "depth-recall."),
    *("ablation.", "ablation-long.", "ablation-recall."),
    *("fight.", "fight-second.", "fight-third.", "fight-long.", "fight-large."),
    *("learning-rate.", "triple-untyped."),
)


def only_in_full(experiment: str) -> bool:
    """Whether an experiment of that name is not trained without --full."""
    return experiment in _LONGEST or experiment.startswith(_FAMILIES)

"""Which experiments take the longest: apart from all others, so that a list of runs needs no torch."""

# the longest: not trained by `unimatrix reproduce` without --full, where committed runs of them can be shown
ONLY_IN_FULL = frozenset(
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

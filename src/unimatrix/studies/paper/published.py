"""Every number that the paper prints, read from published.json beside this file.

The numbers are the paper's, arXiv:2604.25930v1, licensed CC BY 4.0. They are never edited here: where ours
differ, ours stand beside them.
"""

import functools
import json
from importlib import resources
from typing import Any

from unimatrix.lab.study import Paper

PAPER = Paper(
    identifier="arXiv:2604.25930v1",
    title="Associative-State Universal Transformers: Pilot Studies in Structured Recurrent State, Sparse "
    "Retrieval, and Latent Compression",
    licence="CC BY 4.0",
)


@functools.cache
def published() -> dict[str, Any]:
    """The whole of published.json. Callers read it and never write to it: it is one shared object."""
    text = resources.files("unimatrix.studies.paper").joinpath("published.json").read_text(encoding="utf-8")
    return json.loads(text)


def published_parameters(model: str, *, setting: str = "language_model_vocab259_positions128") -> int:
    """The paper's parameter count of a model in one of its settings.

    Raises:
        KeyError: the paper prints no such setting or model.
    """
    return published()["parameters"][setting][model]


def published_row(table: str, model: str) -> dict[str, float]:
    """One model's printed numbers in a flat table ("table1_bpb"), by the table's column names."""
    rows = published()[table]
    return dict(zip(rows["_columns"], rows[model], strict=True))

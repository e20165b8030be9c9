"""The paper's experiments by name: each a function that returns everything a run needs.

Written out where their recipes are: on text in `text_experiments`, on associative recall in
`recall_experiments`, of the latent models in `latent_experiments`, on triple interaction in
`triple_experiments`, of the recurrent FFNs in `recurrent_experiments`.
"""

from collections.abc import Callable
from difflib import get_close_matches

from unimatrix.errors import UserError
from unimatrix.paper.latent_experiments import LATENT_EXPERIMENTS
from unimatrix.paper.recall_experiments import RECALL_EXPERIMENTS
from unimatrix.paper.recurrent_experiments import RECURRENT_EXPERIMENTS
from unimatrix.paper.text_experiments import TEXT_EXPERIMENTS
from unimatrix.paper.triple_experiments import TRIPLE_EXPERIMENTS
from unimatrix.train.config import Experiment

EXPERIMENTS: dict[str, Callable[[], Experiment]] = {
    **TEXT_EXPERIMENTS,
    **RECALL_EXPERIMENTS,
    **LATENT_EXPERIMENTS,
    **TRIPLE_EXPERIMENTS,
    **RECURRENT_EXPERIMENTS,
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

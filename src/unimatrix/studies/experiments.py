"""The paper's experiments by name: each a function that returns everything a run needs.

Written out where their recipes are: on text in `text_experiments`, on associative recall in
`recall_experiments`, of the latent models in `latent_experiments`, on triple interaction in
`triple_experiments`, of the recurrent FFNs in `recurrent_experiments`.
"""

from collections.abc import Callable

from unimatrix.codec import did_you_mean, near_names, shown
from unimatrix.errors import UserError
from unimatrix.studies.paper.latent_experiments import LATENT_EXPERIMENTS
from unimatrix.studies.paper.recall_experiments import RECALL_EXPERIMENTS
from unimatrix.studies.paper.recurrent_experiments import RECURRENT_EXPERIMENTS
from unimatrix.studies.paper.text_experiments import TEXT_EXPERIMENTS
from unimatrix.studies.paper.triple_experiments import TRIPLE_EXPERIMENTS
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
        # there are too many to list: the near ones, or what their names begin with
        near = near_names(name, EXPERIMENTS)
        families = dict.fromkeys(f"{known.partition('.')[0]}.MODEL" for known in EXPERIMENTS)
        hint = did_you_mean(name, near or families)
        raise UserError(f"unknown experiment {shown(name)}; {hint}")
    return EXPERIMENTS[name]()

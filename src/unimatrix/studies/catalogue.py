"""Every study, and by their rows every experiment. A further study is one file, and one line here."""

from collections import ChainMap

from unimatrix.errors import UserError, did_you_mean, near_names, shown
from unimatrix.lab.study import Study
from unimatrix.studies.beyond import fair_fight
from unimatrix.studies.beyond.ablation import ABLATION
from unimatrix.studies.beyond.all_fillers import TABLE5_ALL_FILLERS
from unimatrix.studies.beyond.binding_load import BINDING_LENGTH, BINDING_LOAD
from unimatrix.studies.beyond.context_votes import CONTEXT_VOTES
from unimatrix.studies.beyond.depth import DEPTH_RECALL, DEPTH_TEXT
from unimatrix.studies.beyond.exact_routing import TABLE1_EXACT, TABLE3_EXACT
from unimatrix.studies.beyond.learning_rate import LEARNING_RATE
from unimatrix.studies.beyond.serving import DECODING_STUDIES, MEMORY
from unimatrix.studies.beyond.streaming import STREAMING
from unimatrix.studies.beyond.surprise_store import SURPRISE_STORE
from unimatrix.studies.beyond.training_length import TRAINING_LENGTH
from unimatrix.studies.beyond.triple_untyped import TRIPLE_UNTYPED
from unimatrix.studies.longest import only_in_full
from unimatrix.studies.paper.architecture import FIGURE1
from unimatrix.studies.paper.latent import TABLE2
from unimatrix.studies.paper.recall import TABLE3, TABLE4
from unimatrix.studies.paper.recurrent_ffn import SECTION56_FIRST, SECTION56_PERPLEXITY, SECTION56_TUNED
from unimatrix.studies.paper.recurrent_memory import SECTION56_MEMORY
from unimatrix.studies.paper.slots import TABLE5
from unimatrix.studies.paper.text import TABLE1
from unimatrix.studies.paper.throughput import FIGURE3, SECTION55, SECTION63
from unimatrix.studies.paper.triple import TABLE6
from unimatrix.train.config import Experiment

STUDIES: dict[str, Study] = {
    found.name: found
    for found in (
        FIGURE1,
        TABLE1,
        TABLE1_EXACT,
        TABLE2,
        TABLE3,
        TABLE3_EXACT,
        TABLE4,
        TABLE5,
        TABLE5_ALL_FILLERS,
        TABLE6,
        TRAINING_LENGTH,
        STREAMING,
        CONTEXT_VOTES,
        SURPRISE_STORE,
        BINDING_LOAD,
        BINDING_LENGTH,
        DEPTH_TEXT,
        DEPTH_RECALL,
        ABLATION,
        LEARNING_RATE,
        TRIPLE_UNTYPED,
        *fair_fight.FAIR_FIGHT,
        SECTION56_FIRST,
        SECTION56_TUNED,
        SECTION56_PERPLEXITY,
        SECTION56_MEMORY,
    )
}
# what is timed and weighed, after all training and alone
MEASURED: dict[str, Study] = {
    found.name: found for found in (FIGURE3, SECTION55, SECTION63, *DECODING_STUDIES, MEMORY)
}
ALL = ChainMap(MEASURED, STUDIES)  # the trained come first
EXPERIMENTS: dict[str, Experiment] = {
    found.name: found for study in STUDIES.values() for found in study.experiments
}
ONLY_IN_FULL = frozenset(name for name in EXPERIMENTS if only_in_full(name))


def study(name: str) -> Study:
    """The study of that name.

    Raises:
        UserError: there is none; names the near ones, or all.
    """
    if name not in ALL:
        if name in fair_fight.NAMES:
            raise UserError(f"study {name}: it waits for its recipes, which `unimatrix bench search` finds")
        raise UserError(f"unknown study {shown(name)}; {did_you_mean(name, ALL)}")
    return ALL[name]


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
    return EXPERIMENTS[name]

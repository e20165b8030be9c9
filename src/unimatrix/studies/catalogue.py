"""The tables that `unimatrix reproduce` knows, written out, and the look-up of tables by name."""

from unimatrix.codec import did_you_mean, shown
from unimatrix.errors import UserError
from unimatrix.lab.study import Study
from unimatrix.studies.beyond.training_length import TRAINING_LENGTH
from unimatrix.studies.paper.section56_memory import SECTION56_MEMORY
from unimatrix.studies.paper.section56_text import SECTION56_FIRST, SECTION56_TUNED
from unimatrix.studies.paper.table1 import TABLE1
from unimatrix.studies.paper.table2 import TABLE2
from unimatrix.studies.paper.table3 import TABLE3
from unimatrix.studies.paper.table4 import TABLE4
from unimatrix.studies.paper.table5 import TABLE5, TABLE5_ALL_FILLERS
from unimatrix.studies.paper.table6 import TABLE6

STUDIES: dict[str, Study] = {
    "table1": TABLE1,
    "table2": TABLE2,
    "table3": TABLE3,
    "table4": TABLE4,
    "table5": TABLE5,
    "table5-all-fillers": TABLE5_ALL_FILLERS,
    "table6": TABLE6,
    "training-length": TRAINING_LENGTH,
    "section5.6-first": SECTION56_FIRST,
    "section5.6-tuned": SECTION56_TUNED,
    "section5.6-memory": SECTION56_MEMORY,
}


def study(name: str) -> Study:
    """The table of that name.

    Raises:
        UserError: there is none; names the near ones, or all.
    """
    if name not in STUDIES:
        raise UserError(f"unknown study {shown(name)}; {did_you_mean(name, STUDIES)}")
    return STUDIES[name]

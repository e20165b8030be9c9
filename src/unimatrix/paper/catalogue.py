"""The tables that `unimatrix reproduce` knows, written out, and the look-up of tables by name."""

from difflib import get_close_matches

from unimatrix.errors import UserError
from unimatrix.paper.table import Table
from unimatrix.paper.table1 import TABLE1

TABLES: dict[str, Table] = {"table1": TABLE1}


def table(name: str) -> Table:
    """The table of that name.

    Raises:
        UserError: there is none; names the near ones and all.
    """
    if name not in TABLES:
        near = get_close_matches(name, TABLES, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(f"unknown table {name!r}: {hint}known: {', '.join(TABLES)}")
    return TABLES[name]

"""How many threads a compiled loop runs on: as many as torch does; one for little work and in a forked child.

Imported with unimatrix.ops, before anybody forks, and without numba. The threads of GNU OpenMP do not survive
a fork: a child that asks for new ones hangs, in torch's own functions, or is killed, in numba's.
"""

import os

import torch

THREADING_PAYS = 2**17  # multiply-adds of a call, roughly, below which waking a second thread costs more

_used = False  # a loop has run in this process, or in the one that it was forked from
_forked = False


def _in_child() -> None:
    """What torch's DataLoader does in its workers, for every child of a process that computed."""
    global _forked
    _forked = True
    if _used:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_in_child)


def threads_for(work: int) -> int:
    """Threads for a call of `work` multiply-adds."""
    global _used
    _used = True
    return 1 if work < THREADING_PAYS or _forked else torch.get_num_threads()

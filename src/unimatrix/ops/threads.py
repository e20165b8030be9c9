"""How many threads a compiled loop runs on: as many as torch does; one for little work and in a forked child.

Imported with unimatrix.ops, before anybody forks, and without numba.
"""

import os

import torch

THREADING_PAYS = 2**17  # multiply-adds of a call, roughly, below which waking a second thread costs more

_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_note_fork)


def threads_for(work: int) -> int:
    """Threads for a call of `work` multiply-adds.

    The threads of OpenMP do not survive a fork, and a child that asks for new ones hangs or is killed.
    """
    return 1 if work < THREADING_PAYS or _forked else torch.get_num_threads()

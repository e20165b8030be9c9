"""How many threads a compiled loop runs on: as many as torch does, one for little work.

Imported only when a kernel runs, so that importing unimatrix.ops does not import numba.
"""

import numba
import torch

_torchs_threads = torch.get_num_threads()
MAX_THREADS = numba.get_num_threads()  # what numba started with: no more can be asked for
# asking starts numba's pool, which sets the default of the OpenMP runtime that torch may share
torch.set_num_threads(_torchs_threads)
THREADING_PAYS = 2**17  # multiply-adds of a call, roughly, below which waking a second thread costs more


def match_threads(work: int) -> None:
    """Set numba's threads for a call of `work` multiply-adds, and leave torch's own number as it is."""
    threads = torch.get_num_threads()
    numba.set_num_threads(1 if work < THREADING_PAYS else min(threads, MAX_THREADS))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)

"""Loops on one thread and on several: the same numbers, after a fork, and from two Python threads at once."""

import os
import subprocess
import sys
from pathlib import Path

import every_op
import pytest
import torch
from every_op import CASES, beginnings, holes

from unimatrix.ops import threads

# several threads in every loop
WORK = f"""
import sys
sys.path.insert(0, {str(Path(every_op.__file__).parent)!r})
import torch
from every_op import CASES, beginnings, holes
from unimatrix.ops import threads
threads.THREADING_PAYS = 0
def work(scale=1.0):
    total, options = 0.0, {{"mask": holes(2, 32), "starts": beginnings(2, 32)}}
    for case in [case for name, case in CASES.items() if "-" not in name]:
        made = case.make(length=32, dtype=torch.float32)
        leaves = {{name: (scale * x).requires_grad_() for name, x in made.items()}}
        outputs = case.call(leaves, backend="compiled", **options)
        grads = torch.autograd.grad([y.square().sum() for y in outputs], list(leaves.values()))
        total += sum(float(x.sum()) for x in (*outputs, *grads))
    return total
torch.set_num_threads(THREADS)
"""
FORK = """
import multiprocessing
if __name__ == "__main__":
    work()
    assert torch.get_num_threads() == THREADS
    context = multiprocessing.get_context("fork")
    def child(queue):
        assert torch.get_num_threads() == 1
        queue.put(work())
    queue = context.Queue()
    children = [context.Process(target=child, args=(queue,)) for _ in range(2)]
    for process in children: process.start()
    found = [queue.get(timeout=100) for _ in children]
    for process in children: process.join(100)
    assert [process.exitcode for process in children] == [0, 0]
    assert found == [work()] * 2
    print("done")
"""
LOADER = """
from torch.utils.data import DataLoader, Dataset
class Texts(Dataset):
    def __len__(self): return 4
    def __getitem__(self, n): return work(1 - n / 10)
if __name__ == "__main__":
    work()
    loader = DataLoader(Texts(), batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=100)
    assert sum(len(batch) for batch in loader) == 4
    print("done")
"""
TWO = """
import threading
if __name__ == "__main__":
    failed = []
    def many():
        try:
            torch.set_num_threads(THREADS)
            for _ in range(20): work()
        except BaseException as error:
            failed.append(error)
    both = [threading.Thread(target=many) for _ in range(2)]
    for thread in both: thread.start()
    for thread in both: thread.join()
    assert not failed, failed
    print("done")
"""


def run(code: str, count: int, **env: str) -> str:
    process = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            WORK.replace("THREADS", str(count)) + code.replace("THREADS", str(count)),
        ],
        env=os.environ | {"NUMBA_NUM_THREADS": "2"} | env,
        check=False,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.mark.parametrize("count", [1, 2])
def test_a_forked_child_works_after_a_forward_in_the_parent(count):
    assert run(FORK, count) == "done"


def test_workers_of_a_data_loader():
    assert run(LOADER, 2) == "done"


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("layer", ["workqueue", "omp"])
def test_two_python_threads_at_once(layer, count):
    assert run(TWO, count, NUMBA_THREADING_LAYER=layer) == "done"


def test_one_thread_starts_none():
    code = """
work()
import numba.np.ufunc.parallel as parallel
print(parallel._is_initialized)
"""
    assert run(code, 1) == "False"
    assert run(code, 2) == "True"


@pytest.mark.parametrize("case", CASES)
def test_several_threads_give_the_same_bits_as_one(case, monkeypatch):
    monkeypatch.setattr(threads, "THREADING_PAYS", 0)
    before = torch.get_num_threads()
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        leaves = {
            name: x.requires_grad_() for name, x in CASES[case].make(length=70, dtype=torch.float32).items()
        }
        outputs = CASES[case].call(leaves, mask=holes(2, 70), starts=beginnings(2, 70), backend="compiled")
        grads = torch.autograd.grad([y.square().sum() for y in outputs], list(leaves.values()))
        found.append([*outputs, *grads])
    torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))

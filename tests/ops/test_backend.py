"""What ran is recorded in the part of a model that asked for it, whatever is done with the model."""

import copy
import pickle
import threading
import warnings

import pytest
import torch
from torch import nn

import unimatrix
from unimatrix.mixers.matrix_state import MatrixStateMixer
from unimatrix.ops import BackendChoice, backends_of

X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = MatrixStateMixer(16, 2, 8)
        self.two = MatrixStateMixer(16, 2, 8, backend="chunked")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x)[0])[0]


RAN = {"one": "compiled", "two": "chunked"}


def test_each_part_has_its_own_record():
    model = Two()
    assert backends_of(model) == {}
    model(X)
    assert backends_of(model) == RAN
    model.one.backend.asked = "reference"
    model(X)
    assert backends_of(model) == RAN | {"one": "reference"}
    assert backends_of(model.two) == {"": "chunked"}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_keeps_its_own(copied):
    model = Two()
    model(X)
    other = copied(model)
    assert backends_of(other) == RAN
    other.one.backend.asked = "reference"
    other(X)
    assert backends_of(other) == RAN | {"one": "reference"}
    assert backends_of(model) == RAN


def test_torch_compile_records_in_one_graph_that_is_compiled_once():
    torch.compiler.reset()
    model, compiled = Two(), 0

    def backend(graph, _):
        nonlocal compiled
        compiled += 1
        return graph

    call = torch.compile(model, backend=backend, fullgraph=True, dynamic=False)
    for _ in range(3):
        call(X)
    assert backends_of(model) == RAN
    model.one.backend.ran = None
    call(X)
    assert (backends_of(model), compiled) == (RAN, 1)
    model.one.backend.asked = "chunked"
    call(X)
    assert (backends_of(model), compiled) == (RAN | {"one": "chunked"}, 2)


@pytest.mark.parametrize("strict", [False, True])
def test_export_records_nothing_and_warns_of_nothing(strict):
    model = Two()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        # torch's advice on Python 3.13.0 itself
        warnings.filterwarnings("ignore", "Guards may run slower on Python 3.13.0", RuntimeWarning)
        program = torch.export.export(model, (X,), strict=strict)
    assert torch.equal(program.module()(X), model(X))
    assert backends_of(model) == RAN


def test_python_threads_do_not_mix_their_models():
    models = [Two(), Two()]
    models[1].one.backend.asked = "reference"

    def many(model: nn.Module) -> None:
        for _ in range(20):
            model(X)

    both = [threading.Thread(target=many, args=(model,)) for model in models]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert [backends_of(model)["one"] for model in models] == ["compiled", "reference"]


def test_every_part_of_a_preset_is_named():
    model = unimatrix.build("unimatrix-sparse-pointer").eval()
    with torch.no_grad():
        model(torch.zeros(1, 4, dtype=torch.int64))
    found = backends_of(model)
    assert len(found) == 2
    assert set(found.values()) == {"compiled"}
    assert all(isinstance(model.get_submodule(path).backend, BackendChoice) for path in found)

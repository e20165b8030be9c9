"""One version of the package in a process of its own, timed on request: the other end of bench.against.

Run as a script with the version's sources first on PYTHONPATH, it knows of them what every version has:
unimatrix.build and model(ids, state). One JSON line in, one out:

    {"model", "length", "batch", "what", "mode", "calls"}  ->  {"seconds": of one of so many calls}
    {"model", "length", "batch", "numbers": a path}        ->  {}, and the model's logits there as .npy

Letters: B batch, T time, V vocabulary.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

import unimatrix

Call = Callable[[], Any]
Pass = Literal["forward", "training", "decoding"]


@cache
def prepared(model: str, length: int, batch: int, what: Pass, mode: str) -> Call:
    """A warmed call of one pass."""
    torch.manual_seed(0)
    made = unimatrix.build(model, max_positions=None)
    ids = torch.randint(0, 256, (batch, length + 1), generator=torch.Generator().manual_seed(0))
    call = torch.compile(made, dynamic=False) if mode == "compile" else made
    step = PASSES[what](call, made, ids)
    for _ in range(3):
        step()
    return step


def forward(call: Any, model: Any, ids: torch.Tensor) -> Call:
    model.eval()
    inputs = ids[:, :-1].contiguous()

    def run() -> Any:
        with torch.no_grad():
            return call(inputs)

    return run


def training(call: Any, model: Any, ids: torch.Tensor) -> Call:
    """A whole step: forward, backward, AdamW."""
    model.train()
    inputs, labels = ids[:, :-1].contiguous(), ids[:, 1:].reshape(-1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)

    def run() -> None:
        logits, _ = call(inputs)
        F.cross_entropy(logits.flatten(0, 1), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


class Decoding:
    """One token behind `length` others, as generation does it: each on the state that the last one left."""

    def __init__(self, call: Any, model: Any, ids: torch.Tensor) -> None:
        model.eval()
        self.call, self.token = call, ids[:, -1:].contiguous()
        with torch.no_grad():
            _, self.first = model(ids[:, :-1])
        self.state = self.first

    @torch.no_grad()
    def begin(self) -> None:
        """Before each time: back to the first, so that a state that grows stays near `length`.

        And one token on: a part that keeps the text makes its index anew for an older state, which no
        generation asks of it.
        """
        _, self.state = self.call(self.token, self.first)

    @torch.no_grad()
    def __call__(self) -> None:
        _, self.state = self.call(self.token, self.state)


# (what is called, its model, ids [B, T + 1]) -> one pass
PASSES: dict[Pass, Callable[[Any, Any, torch.Tensor], Call]] = {
    "forward": forward,
    "training": training,
    "decoding": Decoding,
}


def numbers(model: str, length: int, batch: int, path: str) -> None:
    """Logits of a model with weights of trained size, [B, T, V] float32."""
    torch.manual_seed(0)
    made = unimatrix.build(model, max_positions=None).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
        ids = torch.randint(0, 256, (batch, length), generator=torch.Generator().manual_seed(1))
        np.save(path, made(ids)[0].float().numpy())


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, Any] = {}
        if "numbers" in asked:
            numbers(asked["model"], asked["length"], asked["batch"], asked["numbers"])
        else:
            calls = asked.pop("calls")
            step = prepared(**asked)
            if isinstance(step, Decoding):
                step.begin()
            begin = time.perf_counter()
            for _ in range(calls):
                step()
            answer = {"seconds": (time.perf_counter() - begin) / calls}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

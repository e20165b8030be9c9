"""What must hold before a model is timed: a fast form equals the reference, a compiled model the eager one.

A peer is not written here and has no reference form: it is held to itself, token by token against the whole.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unimatrix.errors import UserError
from unimatrix.mixers.gated_mlp import GatedMLP
from unimatrix.models import LanguageModel, build, build_language_model
from unimatrix.ops import BackendChoice

EQUALITY_TOLERANCE = 1e-4  # largest difference of logits of order 1, float32, between fast and reference form
PEER_TOKENS = 160  # of the peer's check: a transformers' Mamba-2 of chunks of 64 passes two states on


def check_equality(name: str, *, device: str = "cpu") -> float:
    """Largest difference between a preset's logits in its fast form and in float64; raises if too large."""
    torch.manual_seed(0)
    model = build_language_model(name, max_positions=None).to(device).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)  # weights of trained size: every part of the model has its say
    exact = build_language_model(name, max_positions=None)
    exact.load_state_dict(model.state_dict())
    exact = exact.double().eval()
    ids = torch.randint(0, 256, (2, 300), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        fast = model(ids.to(device))[0].double().cpu()
        difference = (fast - _reference_logits(exact, ids)).abs().max().item()
    if not difference <= EQUALITY_TOLERANCE:
        raise UserError(
            f"{name}: the fast form differs from the reference by {difference:.1e}; nothing is timed"
        )
    return difference


def _reference_logits(model: LanguageModel, ids: torch.Tensor) -> torch.Tensor:
    as_loops(model)
    return model(ids)[0]


def as_loops(model: nn.Module) -> bool:
    """Make the model run every op in its reference form, recurrences as loops in Python; whether it has any.

    A gated layer's is none: nothing in it goes from token to token.
    """
    parts = [part for part in model.modules() if isinstance(getattr(part, "backend", None), BackendChoice)]
    for part in parts:
        part.backend.asked = "reference"  # type: ignore[union-attr]
    return any(not isinstance(part, GatedMLP) for part in parts)


@torch.no_grad()
def check_steps(name: str, *, device: str = "cpu") -> float:
    """Largest difference between a model's logits one token at a time, with its state, and of the whole.

    As a part of the largest logit, since a peer's logits have the size that its own weights give them.

    Raises:
        UserError: the difference is more than EQUALITY_TOLERANCE.
    """
    torch.manual_seed(0)
    model = build(name, max_positions=None).to(device).eval()
    ids = torch.randint(0, 256, (2, PEER_TOKENS), generator=torch.Generator().manual_seed(1)).to(device)
    whole = model(ids)[0]
    state: Any = None
    single = []
    for token in ids.split(1, dim=1):
        logits, state = model(token, state)
        single.append(logits)
    difference = _relative_difference(torch.cat(single, dim=1), whole)
    if not difference <= EQUALITY_TOLERANCE:
        raise UserError(
            f"{name}: one token at a time differs from the whole by {difference:.1e} of the largest logit; "
            "nothing is timed"
        )
    return difference


def check_models(
    ours: Sequence[str], peers: Sequence[str], *, device: str, say: Callable[[str], None]
) -> tuple[dict[str, float], dict[str, float]]:
    """What `check_equality` found for ours and `check_steps` for peers; said when all hold."""
    equality = {name: check_equality(name, device=device) for name in ours}
    steps = {name: check_steps(name, device=device) for name in peers}
    for name, difference in equality.items():
        say(f"{name}: fast form against reference, largest difference of logits {difference:.1e}")
    for name, difference in steps.items():
        say(f"{name}: one token at a time against the whole, {difference:.1e} of the largest logit")
    return equality, steps


def check_compiled(call: Any, model: LanguageModel, ids: torch.Tensor, name: str) -> None:
    """What torch.compile made of a model gives the model's logits; raises if not."""
    model.eval()
    with torch.no_grad():
        difference = (call(ids[:, :-1])[0] - model(ids[:, :-1])[0]).abs().max().item()
    if not difference <= EQUALITY_TOLERANCE:
        raise UserError(
            f"{name} under torch.compile differs from eager mode by {difference:.1e}; nothing is timed"
        )


@torch.no_grad()
def compiled_peer_problem(call: Any, model: Any, ids: torch.Tensor) -> str | None:
    """In what the compiled peer differs from the peer itself; None: it does not. Leaves it in eval mode."""
    model.eval()
    difference = _relative_difference(call(ids[:, :-1])[0], model(ids[:, :-1])[0])
    if difference <= EQUALITY_TOLERANCE:
        return None
    return f"it differs from eager mode by {difference:.1e} of the largest logit"


@contextmanager
def room_to_compile(num_models: int) -> Iterator[None]:
    """Within the block, torch.compile starts empty and may compile so many models; beyond them it raises.

    It counts the versions of a function, here of every model's forward, over all models of a process, and
    past its limit of 8 runs the rest eagerly: a model would be timed in a mode that it never ran in.
    """
    # imported here, as below
    from torch._dynamo import config

    torch.compiler.reset()
    # each in evaluation and in training, with gradients and without
    limit = max(config.recompile_limit, 4 * num_models)
    with config.patch(recompile_limit=limit, fail_on_recompile_limit_hit=True):
        yield


def compiler_errors() -> tuple[type[Exception], ...]:
    """What torch.compile raises where it cannot compile a model, at its first call or backward pass."""
    # imported here: an import of both takes a second, and only a benchmark under torch.compile needs them
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler, OperatorIssue

    return (TorchDynamoException, OperatorIssue, CppCompileError, InvalidCxxCompiler)


def _relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()

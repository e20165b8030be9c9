"""Live objects to named tensors and back: what a checkpoint keeps of the optimiser and the random generators.

Optimiser tensors are named "<quantity>/<parameter>", such as "exp_avg/blocks.0.mixer_norm.weight". What is
read back was written by anyone: it is checked whole before anything is changed.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unimatrix.data.streams import torch_seed
from unimatrix.errors import UserError

# what AdamW keeps of each parameter
MOMENTS = ("exp_avg", "exp_avg_sq")
_QUANTITIES = ("step", *MOMENTS)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """AdamW's state on the CPU, by quantity and parameter; before the first step zeros, as it begins."""
    tensors = {}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter, {})
        for quantity in _QUANTITIES:
            first = torch.zeros([] if quantity == "step" else parameter.shape)
            tensors[f"{quantity}/{name}"] = state.get(quantity, first).detach().cpu().contiguous()
    return tensors


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor], *, most_steps: int
) -> None:
    """Put back what `optimizer_tensors` took from AdamW.

    Args:
        most_steps: how many updates there can have been.
    Raises:
        UserError: a tensor that no parameter of the model has, one missing, or one of another shape, dtype or
            range; the optimiser is then as it was.
    """
    parameters = dict(model.named_parameters())
    expected = {f"{quantity}/{name}" for name in parameters for quantity in _QUANTITIES}
    for key in tensors:
        if key not in expected:
            raise UserError(f"{key!r} belongs to no parameter of this model")
    for key in sorted(expected - tensors.keys()):
        raise UserError(f"{key!r} is missing, one of {len(expected)} tensors")
    for key, tensor in tensors.items():
        quantity, _, name = key.partition("/")
        shape = [] if quantity == "step" else list(parameters[name].shape)
        _check_tensor(key, tensor, shape=shape, dtype=torch.float32)
        if not tensor.isfinite().all() or (quantity != "exp_avg" and (tensor < 0).any()):
            words = "finite numbers" + ("" if quantity == "exp_avg" else " from 0 on")
            raise UserError(f"{key!r}: expected {words}, got others")
        if quantity == "step" and tensor > most_steps:
            raise UserError(f"{key!r}: expected at most the {most_steps} steps made, got {tensor.item():g}")
    state = {
        index: {quantity: tensors[f"{quantity}/{name}"] for quantity in _QUANTITIES}
        for index, name in enumerate(parameters)
    }
    assert [p for group in optimizer.param_groups for p in group["params"]] == list(parameters.values())
    # the optimiser's own loader puts each tensor where its parameter lives
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _check_tensor(key: str, tensor: Tensor, *, shape: list[int], dtype: torch.dtype) -> None:
    if (list(tensor.shape), tensor.dtype) != (shape, dtype):
        raise UserError(
            f"{key!r}: expected shape {shape} of {dtype}, got {list(tensor.shape)} of {tensor.dtype}"
        )


def seed_process(seed: int, *, process_index: int) -> None:
    """Seeds torch's global generators (dropout draws from them), differently in each process."""
    torch.manual_seed(torch_seed("process", seed=seed, process=process_index))


def rng_tensors(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators that this process draws from: "cpu", and the accelerator's; uint8 each."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device.type).get_rng_state()
    return states


def load_rng_tensors(rows: Mapping[str, Tensor], device: torch.device, *, process_index: int = 0) -> bool:
    """Put back what `rng_tensors` took in this process.

    Args:
        rows: those of all processes, [processes, bytes] each.
    Returns:
        False where a generator of this process is not among them: another device, or more processes.
    Raises:
        UserError: the CPU's generator, which every process has, is missing, or a state is none.
    """
    if "cpu" not in rows:
        raise UserError("'cpu' is missing, the state of a generator that every process has")
    now = rng_tensors(device)
    num_processes = len(rows["cpu"]) if rows["cpu"].dim() else 0
    for name, state in now.items():
        if name in rows:
            shape = [max(1, num_processes), len(state)]
            _check_tensor(name, rows[name], shape=shape, dtype=torch.uint8)
    if process_index >= num_processes or not now.keys() <= rows.keys():
        return False
    try:
        # of its own: torch looks for a state at the beginning of its tensor's memory
        torch.set_rng_state(rows["cpu"][process_index].clone())
        if device.type != "cpu":
            torch.get_device_module(device.type).set_rng_state(rows[device.type][process_index].clone())
    except RuntimeError as error:
        raise UserError(
            f"expected states of generators, got others ({str(error).splitlines()[0]})"
        ) from error
    return True

"""Live objects to named tensors and back: what a checkpoint keeps of the optimiser and the random generators.

Optimiser tensors are named "<quantity>/<parameter>", such as "exp_avg/blocks.0.mixer_norm.weight".
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unimatrix.data.streams import torch_seed
from unimatrix.errors import UserError


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state on the CPU, by quantity and parameter; a parameter not yet updated has none."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for quantity, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{quantity}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return tensors


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` took.

    Raises:
        UserError: a tensor of a parameter that the model does not have, or of another shape.
    """
    parameters = dict(model.named_parameters())
    position = {name: index for index, name in enumerate(parameters)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        quantity, _, name = key.partition("/")
        if name not in parameters:
            raise UserError(f"optimizer.safetensors: {key!r} belongs to no parameter of this model")
        if tensor.dim() and tensor.shape != parameters[name].shape:
            raise UserError(
                f"optimizer.safetensors: {key!r} expected shape {list(parameters[name].shape)}, "
                f"got {list(tensor.shape)}"
            )
        state.setdefault(position[name], {})[quantity] = tensor
    assert [p for group in optimizer.param_groups for p in group["params"]] == list(parameters.values())
    # the optimiser's own loader puts each tensor where its parameter lives
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def seed_process(seed: int, *, process_index: int) -> None:
    """Seeds torch's global generators (dropout draws from them), differently in each process."""
    torch.manual_seed(torch_seed("process", seed=seed, process=process_index))


def rng_tensors(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators that this process draws from: "cpu", and the accelerator's; uint8 each."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device.type).get_rng_state()
    return states


def load_rng_tensors(states: Mapping[str, Tensor], device: torch.device) -> bool:
    """Put back what `rng_tensors` took; False where a generator of this process is not among it."""
    if "cpu" not in states:
        return False
    torch.set_rng_state(states["cpu"])
    if device.type == "cpu":
        return True
    if device.type not in states:
        return False
    torch.get_device_module(device.type).set_rng_state(states[device.type])
    return True

"""Where and how the arithmetic runs: device, precision and processes, through accelerate."""

import os
from typing import TYPE_CHECKING

import torch

from unimatrix.errors import UserError
from unimatrix.train.config import Device, Experiment, Precision

if TYPE_CHECKING:
    from accelerate import Accelerator

_YES = ("1", "true", "t", "yes", "y", "on")  # as accelerate reads a flag
_MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
# the ways of splitting work in which every process holds the whole model, as the checkpoints here need
_SUPPORTED = frozenset({"NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU"})


def start_accelerator(experiment: Experiment) -> "Accelerator":
    """The accelerator for this experiment: one process, or the several that `accelerate launch` started.

    Raises:
        UserError: the device is not there or cannot compute in this precision, the batch cannot be shared
            among the processes, these do not find each other, or the way of splitting is one whose
            checkpoints would be wrong (FSDP, DeepSpeed, ...).
    """
    # imported here: whoever reads a checkpoint or asks for a device needs none of it
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import GradientAccumulationPlugin

    loop, optim = experiment.loop, experiment.optim
    # accelerate joins processes on a CPU where it is told of the CPU, and elsewhere leaves each to itself
    cpu = device_kind(loop.device) == "cpu"
    # accelerate keeps its first settings for the process's life; runs of one session may differ in theirs.
    # what belongs to a process group stays
    several = PartialState._shared_state != {} and PartialState().num_processes > 1
    AcceleratorState._reset_state(reset_partial_state=not several)
    try:
        device = PartialState(cpu=cpu).device
    except ValueError as error:
        AcceleratorState._reset_state(reset_partial_state=not several)  # half made, it would stay
        raise UserError(f"accelerate: processes that are to work together cannot: {error}") from error
    assert device is not None
    _check_precision(optim.precision, device)
    try:
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=_MIXED_PRECISION[optim.precision],
            # the loop accumulates by itself; without the plugin an environment variable would divide the loss
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        )
    except ValueError as error:
        raise UserError(f"device {loop.device}, precision {optim.precision}: {error}") from error
    kind = accelerator.distributed_type.value
    if kind not in _SUPPORTED:
        raise UserError(f"accelerate: expected one process or data-parallel ones (DDP), got {kind}")
    started = processes_started()
    found = accelerator.num_processes
    if found != started:
        raise UserError(
            f"accelerate: {started} processes were started (WORLD_SIZE), and {found} found each other;"
            " expected all"
        )
    pieces = accelerator.num_processes * optim.accumulation
    if loop.batch_size % pieces:
        raise UserError(
            f"batch_size: expected a multiple of {pieces} ({accelerator.num_processes} processes x "
            f"{optim.accumulation} accumulation), got {loop.batch_size}"
        )
    return accelerator


def processes_started() -> int:
    """How many processes of this run torchrun or accelerate launch says that it started; 1 without them."""
    said = os.environ.get("WORLD_SIZE", "")
    return max(1, int(said)) if said.isdecimal() else 1


def device_kind(device: Device) -> str:
    """The kind of device that "auto" means here, or the one that is asked for.

    Raises:
        UserError: it is not there.
    """
    # what `accelerate launch --cpu` tells its processes
    if device == "auto" and os.environ.get("ACCELERATE_USE_CPU", "").lower() in _YES:
        return "cpu"
    there = {"mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name in there if there[name])
    if not there[device]:
        raise UserError(f"device: {device} asked for, but torch sees none here")
    return device


def _check_precision(precision: Precision, device: torch.device) -> None:
    if precision == "fp16" and device.type != "cuda":
        raise UserError(f"precision: fp16 needs a CUDA device, got {device.type}; bf16 and fp32 work")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("precision: this CUDA device has no bf16; expected fp16 or fp32")

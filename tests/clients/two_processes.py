"""What test_processes.py starts twice with `accelerate launch`: models shared out in several ways.

Each trains a few steps on its half of a batch; what the halves come to is written into the folder named on
the command line, beside what one process comes to on the whole batch.
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import PartialState
from small_models import PRESETS, small_model
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments

from unimatrix.hf import UniMatrixForCausalLM
from unimatrix.models import LanguageModel

STEPS = 3


def by_blocks(model: LanguageModel) -> nn.Module:
    """FSDP2 around each block, and around all of it for the rest."""
    mesh = init_device_mesh("cpu", (2,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def by_layers(model: LanguageModel) -> nn.Module:
    """FSDP2 around every single layer; two that share a matrix must be one group."""
    mesh = init_device_mesh("cpu", (2,))
    tied = [model.embedding, model.head]
    fully_shard(tied, mesh=mesh)
    for module in list(model.modules()):
        if isinstance(module, nn.Linear | nn.Embedding) and module not in tied:
            fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def made(preset: str) -> LanguageModel:
    """`small_model`; of `unimatrix` in float64, as three such steps make 0.01 of float32's last digit."""
    model = small_model(preset)
    return model.double() if preset == "unimatrix" else model


WAYS = {"blocks": by_blocks, "layers": by_layers, "ddp": DistributedDataParallel}


def train(model: nn.Module, ids: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(STEPS):
        logits, _ = model(ids)
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@torch.no_grad()
def distance(model: nn.Module, expected: LanguageModel, ids: torch.Tensor) -> dict[str, float]:
    """Relative distances of the weights (the furthest one's) and of the logits from those expected."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    got = {name: whole(tensor) for name, tensor in inner.state_dict().items()}
    weights = expected.state_dict()
    assert got.keys() == weights.keys()
    logits, right = model.eval()(ids)[0], expected.eval()(ids)[0]
    return {
        "weights": max(
            float((got[name] - w).norm() / w.norm().clamp_min(1e-9)) for name, w in weights.items()
        ),
        "logits": float((logits - right).norm() / right.norm()),
    }


def trainer(folder: Path, name: str, batch_size: int) -> dict[str, torch.Tensor]:
    """Weights after transformers' Trainer; the rows are of one length, so that halves weigh the same."""
    draw = torch.Generator().manual_seed(3)
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 256, (24, 10), generator=draw)]
    settings = TrainingArguments(
        output_dir=str(folder / name), max_steps=STEPS, per_device_train_batch_size=batch_size,
        learning_rate=1e-2, optim="sgd", report_to="none", use_cpu=True, disable_tqdm=True, save_steps=STEPS,
        dataloader_pin_memory=False,
    )  # fmt: skip
    model = UniMatrixForCausalLM.from_language_model(small_model(name))
    Trainer(model=model, args=settings, train_dataset=rows).train()
    return model.state_dict()


if __name__ == "__main__":
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    rank = PartialState(cpu=True).process_index
    ids = torch.randint(0, 256, (4, 12), generator=torch.Generator().manual_seed(2))
    found = {}
    for preset in PRESETS:
        alone = made(preset).train()
        train(alone, ids)
        moved = float((alone.embedding.weight - made(preset).embedding.weight).detach().norm())
        for way, share in WAYS.items():
            model = share(made(preset).train())
            train(model, ids[2 * rank : 2 * rank + 2])
            found[f"{way} {preset}"] = distance(model, alone, ids) | {"moved": moved}
    torch.save(trainer(out, "unimatrix-core", batch_size=2), out / f"trainer{rank}.pt")
    (out / f"rank{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()

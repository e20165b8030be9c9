"""Two processes on the CPU by `accelerate launch`: FSDP2, DDP and transformers' Trainer equal one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clients.two_processes import WAYS, trainer
from small_models import PRESETS
from tolerances import TOLERANCE

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("launched")
    # with --cpu accelerate would start one process; the environment turns its "multi GPU" to CPUs
    launch = [*("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", "0"]
    ours = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HOME": str(out / "hf")}
    ours["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *launch, str(TESTS / "clients" / "two_processes.py"), str(out)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | ours,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PRESETS)
def test_halves_of_a_batch_train_to_the_same_model(launched, way, name):
    for rank in (0, 1):
        found = json.loads((launched / f"rank{rank}.json").read_text())[f"{way} {name}"]
        assert found["moved"] > 0.1
        assert found["weights"] <= TOLERANCE["gradient", torch.float32]
        assert found["logits"] <= TOLERANCE["logits", torch.float32]


def test_transformers_trainer(launched, tmp_path):
    alone = trainer(tmp_path, "unimatrix-core", batch_size=4)
    for rank in (0, 1):
        weights = torch.load(launched / f"trainer{rank}.pt")
        for name, tensor in alone.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-6)

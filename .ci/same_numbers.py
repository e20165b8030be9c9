"""Whether this version gives the numbers of another one, bit for bit.

    python .ci/same_numbers.py REVISION [--out FILE]

Both run in one session, each in a process of its own with its own sources: of every preset at both
vocabularies and two seeds the initial weights, the logits, the gradients and one token's continuation; of
every kind of experiment three training steps (the curve, the weights, the metrics). What is compared are
SHA-256 of bytes.
Exit code 1: something differs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1)
VOCABULARIES = (259, 64)
# one of each recipe: texts and tasks, every way of training that a table has
EXPERIMENTS = (
    "table1.unimatrix-core",
    "table1.unimatrix-discovery",
    "table1.transformer",
    "table2.triple-hybrid",
    "table2.triple-slot-d60",
    "ffn-tuned.recurrent-ffn-hybrid",
    "ffn-tuned-xavier.transformer",
    "length.triple-hybrid",
    "recall-no-dropout.unimatrix-assoc",
    "recall-no-dropout.slots16-half-gate",
    "recall.transformer",
    "recall64.recurrent-ffn-readout",
    "signal-noise.recurrent-ffn",
    "triple.typed-latent",
    "triple.transformer-triple",
    "triple.sparse-pointer",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("revision", help="a git revision of this repository")
    parser.add_argument(
        "--out", type=Path, default=None, metavar="FILE", help="write the table there as JSON"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(dict(numbers())))
        return 0
    with tempfile.TemporaryDirectory(prefix="unimatrix-same-") as place:
        archive = ["git", "-C", str(ROOT), "archive", "--format=tar", options.revision, "src"]
        tree = subprocess.run(archive, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", place], check=True, input=tree)
        then, now = (found(Path(place) / "src"), found(ROOT / "src"))
    rows = {name: [digest, now.get(name)] for name, digest in then.items()}
    different = [name for name, (before, after) in rows.items() if before != after]
    came = sorted({name.split(" V ")[0] for name in now.keys() - then.keys()})
    if came:
        print(f"not compared, as {options.revision} has them not: {', '.join(came)}")
    for name in different:
        print(f"differs: {name} ({' -> '.join(str(digest) for digest in rows[name])})")
    print(f"{len(rows) - len(different)} of {len(rows)} equal bit for bit to {options.revision}")
    if options.out is not None:
        options.out.write_text(json.dumps({"revision": options.revision, "digests": rows}, indent=1) + "\n")
    return bool(different)


def found(sources: Path) -> dict[str, str]:
    """The digests that a version gives."""
    environment = os.environ | {"PYTHONPATH": str(sources), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", __file__, "--worker", "none"]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def numbers():
    import torch

    import unimatrix
    from unimatrix.models import peer_presets, presets

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for preset in [*presets(), *peer_presets()]:
        for vocab_size in VOCABULARIES:
            for seed in SEEDS:
                name = f"{preset} V {vocab_size} seed {seed}"
                torch.manual_seed(seed)
                model = unimatrix.build(preset, vocab_size=vocab_size, dropout=0.1)
                yield f"{name} weights", digest(named_tensors(model))
                ids = torch.randint(0, vocab_size, (2, 40), generator=torch.Generator().manual_seed(seed))
                logits, state = model.eval()(ids)
                yield f"{name} logits", digest({"logits": logits})
                yield f"{name} next", digest({"logits": model(ids[:, :1], state)[0]})
                model.train()
                logits, _ = model(ids)
                torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
                grads = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
                yield f"{name} gradients", digest(grads)
    yield from training()


def training():
    from dataclasses import replace

    import torch

    from unimatrix.data import load_corpus
    from unimatrix.studies.catalogue import experiment
    from unimatrix.train import train

    corpus = load_corpus("embedded")
    for name in EXPERIMENTS:
        recipe = experiment(name)
        loop = replace(recipe.loop, steps=3, device="cpu", tracker="none", log_every=1, eval_at=None)
        short = replace(recipe, loop=loop)
        with tempfile.TemporaryDirectory() as out:
            quiet = open(os.devnull, "w")  # noqa: SIM115
            from rich.console import Console

            result = train(
                short,
                out=Path(out) / "run",
                corpus=corpus if recipe.task is None else None,
                console=Console(file=quiet),
            )
        yield f"{name} 3 steps, curve", digest({"curve": torch.tensor([list(p) for p in result.curve])})
        yield f"{name} 3 steps, weights", digest(named_tensors(result.model))
        metrics = {key: torch.tensor(value) for key, value in result.metrics.items() if "second" not in key}
        yield f"{name} 3 steps, metrics", digest(metrics)


def named_tensors(model):
    return dict(model.state_dict())


def digest(tensors):
    import hashlib

    import torch

    total = hashlib.sha256()
    for name, tensor in tensors.items():
        total.update(name.encode())
        total.update(tensor.detach().double().contiguous().numpy().tobytes())
        total.update(str(torch.as_tensor(tensor).dtype).encode())
    return total.hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())

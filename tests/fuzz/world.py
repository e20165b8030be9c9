"""What every case takes a copy of: a text, runs, a model in several files, the results of a reproduction."""

import dataclasses
import json
import shutil
from pathlib import Path

from fuzz.harness import command

from unimatrix.hf import load
from unimatrix.lab.results import GAVE_UP, RESULTS, GaveUp, RunRow, append_result, read_results
from unimatrix.studies.paper.slots import SLOTS32
from unimatrix.studies.paper.text import TABLE1

ARCHIVED = Path(__file__).parents[2] / "docs" / "results" / "archive" / "tables-2026-11"
OLDER = Path(__file__).parents[1] / "older"
SIZES = ["--d-model", "8", "--num-heads", "2", "--depth", "1", "--state-dim", "4", "--batch-size", "2"]
QUIET = ["--tracker", "none", "--device", "cpu"]
ON_RULER = ["--ruler", "fwe", "--lengths", "800", "--samples", "2", "--device", "cpu"]


@dataclasses.dataclass(frozen=True)
class World:
    """Things that are good, which every case takes a copy of and damages.

    text: to train on. run: of two steps on it, with one checkpoint. recall: a run with slots on its task.
    older: a run that 0.1.0 wrote, with slots, on the same task.
    sharded: the run's model in several files. state: what the run's model has read.
    results: a reproduction's folder, with a look into a model. rows: the run's model on a task of RULER's.
    """

    folder: Path
    text: Path
    run: Path
    recall: Path
    older: Path
    sharded: Path
    state: Path
    results: Path
    rows: Path

    @property
    def checkpoint(self) -> Path:
        return self.run / "checkpoint-000002"


def build_world(folder: Path) -> World:
    """Everything of a world, made in this folder."""
    world = World(
        folder=folder,
        text=folder / "sea.txt",
        run=folder / "run",
        recall=folder / "recall",
        older=OLDER / "runs" / "slots",
        sharded=folder / "sharded",
        state=folder / "ab.state",
        results=folder / "results",
        rows=folder / "ruler.jsonl",
    )
    world.text.write_bytes(b"the sea and the sky and the sea and the sky\n" * 12)
    steps = ["--steps", "2", "--seq-len", "16", *SIZES, *QUIET]
    assert command("train", str(world.text), *steps, "--out", str(world.run)) == (0, "")
    # what a forked child would else import and compile anew in each case
    assert command("generate", str(world.run), "--prompt", "ab", "--max-new-tokens", "2") == (0, "")
    assert command("eval", str(world.run)) == (0, "")
    assert command("eval", str(world.run), *ON_RULER, "--rows", str(world.rows)) == (0, "")
    read = ["--prompt", "ab", "--save-state", str(world.state), "--max-new-tokens", "0"]
    assert command("generate", str(world.run), *read) == (0, "")
    task = [
        "--length",
        "16",
        "--num-pairs",
        "2",
        "--eval-num-pairs",
        "2",
        "--eval-sequences",
        "4",
        "--slots",
        "4",
    ]
    recipe = ["train", "--experiment", "recall-no-dropout.no-gate", *SIZES, *QUIET, *task, "--steps", "1"]
    assert command(*recipe, "--out", str(world.recall)) == (0, "")
    model, tokenizer = load(world.checkpoint)
    model.save_pretrained(world.sharded, max_shard_size="4KB")
    tokenizer.save_pretrained(world.sharded)
    assert (world.sharded / "model.safetensors.index.json").is_file()
    world.results.mkdir()
    wanted = {SLOTS32.name, *TABLE1.names}
    rows = [json.loads(line) for line in (ARCHIVED / "results.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["experiment"] in wanted and row["seed"] in (7, 11)]
    (world.results / RESULTS).write_text("".join(json.dumps(row) + "\n" for row in kept))
    about = [field.name for field in dataclasses.fields(RunRow)]
    for row in read_results(world.results / RESULTS)[:2]:
        lost = GaveUp(**{name: getattr(row, name) for name in about}, why="it stopped")
        append_result(world.results / GAVE_UP, lost)
    shutil.copytree(ARCHIVED / "inspections", world.results / "inspections")
    return world

"""Studies at the smallest size that runs, and a text for them."""

import dataclasses
import random

import numpy as np

from unimatrix.data import Corpus
from unimatrix.data.tasks import RecallConfig
from unimatrix.data.tasks.mqar import MQARConfig
from unimatrix.lab.study import Study
from unimatrix.studies.paper.text import TABLE1
from unimatrix.train import Experiment


def tiny(study: Study, **loop: object) -> Study:
    """The study of two steps of models of a few thousand parameters, on whatever text."""

    def shrink(full: Experiment) -> Experiment:
        model = full.model
        # typed-latent has no sizes
        if model.preset != "typed-latent":
            sizes = {"d_model": 8, "num_heads": 2, "depth": 1}
            # whose layers are not alike, or whose order says how deep it is
            if model.preset == "unimatrix-hybrid" or "order" in model.changes:
                del sizes["depth"]
            if not model.preset.startswith(("transformer", "recurrent-ffn", "m2rnn", "lstm")):
                sizes["state_dim"] = 4
            if model.preset == "lstm":
                del sizes["num_heads"]
            model = dataclasses.replace(model, changes={**model.changes, **sizes})
        settings = {"steps": 2, "batch_size": 2, "seq_len": 16, "eval_every": 1, "eval_bytes": 64}
        task = full.task
        if task is not None:
            # long enough for 8 pairs
            length = 24 if isinstance(task, RecallConfig) else task.length
            # of the long ones, which ask once more at each of many lengths, one
            sequences = {"eval_sequences": 1 if isinstance(task, MQARConfig) else 32}
            task = dataclasses.replace(task, length=length, **sequences)
            settings |= {"seq_len": length, "eval_bytes": None}
        if full.loop.eval_at is not None:
            settings["eval_at"] = (1, 2)
        shorter = dataclasses.replace(full.loop, tracker="none", **(settings | loop))  # pyright: ignore
        return dataclasses.replace(full, model=model, loop=shorter, task=task)

    return dataclasses.replace(study, text="").with_experiments(shrink)


# two models and no figures: what is tested with it does not depend on the number of models
SHORT = tiny(dataclasses.replace(TABLE1, rows=TABLE1.rows[:2], figures=()))


def text_of(length: int, *, seed: int) -> np.ndarray:
    words = random.Random(seed).choices([b"one ", b"two ", b"three "], k=length // 4 + 1)
    return np.frombuffer(b"".join(words)[:length], dtype=np.uint8)


def counting() -> Corpus:
    """600 bytes to train on, 200 to evaluate on."""
    splits = (text_of(600, seed=1), text_of(200, seed=2), text_of(200, seed=3))
    note = "This is not the paper's corpus."
    return Corpus(name="counting", train=splits[0], valid=splits[1], test=splits[2], notes=(note,))

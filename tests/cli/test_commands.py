"""The commands, each through the real entry point on a tiny model."""

import io
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from unimatrix.cli import train as train_command
from unimatrix.cli.arguments import choose_corpus, option_value
from unimatrix.hf import load
from unimatrix.models import (
    PEER_PRESETS,
    PRESETS,
    TASK_PRESETS,
    build,
    parameter_count,
    peer_presets,
    presets,
    task_presets,
)
from unimatrix.studies.paper.published import printed_parameters
from unimatrix.train import Experiment
from unimatrix.train.recipe import RATE_OF_OTHERS, TUNED_RATE, rate_of_width

SMALL = [
    *("--d-model", "8", "--num-heads", "2", "--depth", "1", "--state-dim", "4"),
    *("--batch-size", "2", "--seq-len", "16", "--tracker", "none"),
]


def settings_of(folder) -> Experiment:
    return Experiment.from_dict(json.loads((folder / "run.json").read_text())["experiment"])


# train


def test_train_takes_a_text_in_one_line_and_names_the_run_after_it(
    call, small_run, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(small_run.parent / "sea.txt", "sea.txt")
    code, out, err = call("train", "sea.txt", *SMALL, "--steps", "2")
    assert (code, err) == (0, "")
    assert (tmp_path / "runs" / "sea-unimatrix" / "checkpoint-000002" / "model.safetensors").is_file()
    assert "bits per byte" in out
    assert "unimatrix generate runs/sea-unimatrix" in out
    assert "not the paper's corpus" not in out


def test_a_stream_is_said_beside_windows_and_a_finished_run_that_it_was_finished(call, small_run, tmp_path):
    words, run = small_run.parent / "sea.txt", tmp_path / "run"
    whole = ("train", words, *SMALL, "--steps", "2", "--stream-bytes", "50", "--out", run)
    code, out, err = call(*whole)
    assert (code, err) == (0, "")
    assert "Note: all" not in out
    numbers = re.search(r"Its beginning as one stream: ([\d.]+) bits per byte; in windows ([\d.]+)\n", out)
    metrics = json.loads((run / "run.json").read_text())["metrics"]
    expected = [f"{metrics[name]:.4f}" for name in ("stream_bpb", "windows_bpb")]
    assert numbers is not None
    assert list(numbers.groups()) == expected
    code, out, _ = call("train", "--resume", "--out", run)
    assert code == 0
    assert "Note: all 2 steps were done before; a larger number would train on." in out
    assert "Note: all" not in call("train", "--resume", "--out", run, "--steps", "3")[1]


def test_the_learning_rate_follows_the_width_and_one_that_is_given_wins(call, small_run, tmp_path):
    def default(*words):
        """The one that --help shows for this command line."""
        (rate,) = re.findall(
            r"the peak learning rate\. \(default: ([\d.]+)\)", call("train", *words, "--help")[1]
        )
        return float(rate)

    assert default() == default("x.txt", "--d-model", "32") == TUNED_RATE
    assert default("--d-model", "240") == default("--set", "d_model=240") == rate_of_width(240) < TUNED_RATE
    assert default("--preset", "transformer", "--d-model", "240") == RATE_OF_OTHERS
    assert default("--experiment", "table1.unimatrix-core") == 3e-4
    wide = ("train", small_run.parent / "sea.txt", *SMALL, "--d-model", "68", "--steps", "1")
    run = tmp_path / "wide"
    assert call(*wide, "--out", run)[0] == 0
    assert settings_of(run).optim.lr == rate_of_width(68)
    assert call(*wide, "--out", run, "--overwrite", "--lr", "0.001")[0] == 0
    assert settings_of(run).optim.lr == 0.001
    code, _, err = call("train", "--resume", "--out", run, "--steps", "2")
    assert (code, err, settings_of(run).optim.lr) == (0, "", 0.001)


def test_a_part_under_a_new_name_is_told(call, small_run, tmp_path):
    """Any name will do for a part, so that a misspelt one makes another model: it is said."""
    short = ("train", small_run.parent / "sea.txt", *SMALL, "--steps", "1")
    code, out, _ = call(*short, "--out", tmp_path / "typo", "--set", "layers.0.mixr=attention")
    assert code == 0
    assert "Note: parts that unimatrix has not: layers.0.mixr (attention)" in out
    code, out, _ = call(*short, "--out", tmp_path / "same", "--set", "layers.0.feed_forward=gated_mlp")
    assert code == 0
    assert "parts that" not in out


def test_set_takes_what_a_recipe_says_of_any_model_too(call, small_run, tmp_path) -> None:
    short = ("train", small_run.parent / "sea.txt", *SMALL, "--steps", "1", "--out", tmp_path / "run")
    code, _, err = call(
        *short, "--max-positions", "64", "--set", "max_positions=None", "--set", "dropout=0.25"
    )
    assert (code, err) == (0, "")
    used = settings_of(tmp_path / "run").model
    assert (used.max_positions, used.dropout, dict(used.changes).keys() & {"dropout"}) == (None, 0.25, set())
    code, _, err = call(*short, "--set", "dropout=much")
    assert code == 2
    assert err.count("\n") == 1
    assert "dropout: expected" in err


def test_train_overrides_an_experiment_and_keeps_the_rest(call, small_run, tmp_path) -> None:
    text = small_run.parent / "sea.txt"
    out = tmp_path / "run"
    code, printed, err = call(
        *("train", "--experiment", "table1.unimatrix-rosa", "--data", text, "--out", out),
        *(*SMALL, "--steps", "3", "--lr", "4e-4"),
    )
    assert (code, err) == (0, "")
    used = settings_of(out)
    assert (used.name, used.model.preset, used.loop.steps, used.optim.lr) == (
        *("table1.unimatrix-rosa", "unimatrix-rosa"),
        *(3, 4e-4),
    )
    assert (used.model.dropout, used.optim.schedule, used.model.max_positions) == (0.1, "constant", 128)
    assert "not the paper's corpus" in printed


def test_train_refuses_an_occupied_folder_and_then_obeys(call, refused, small_run, tmp_path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    text = small_run.parent / "sea.txt"
    complaint = refused("train", text, *SMALL, "--steps", "4", "--out", run)
    assert "expected --resume, --overwrite or another --out" in complaint
    # a resume needs no other setting than the folder, and may go further
    code, _, err = call("train", "--resume", "--out", run, "--steps", "6")
    assert (code, err) == (0, "")
    assert settings_of(run).loop.steps == 6
    assert settings_of(run).model.changes["d_model"] == 8
    code, _, err = call("train", text, *SMALL, "--steps", "1", "--out", run, "--overwrite")
    assert (code, err) == (0, "")
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-000001"]


def test_train_says_what_is_wrong_with_its_input(refused, tmp_path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    short = tmp_path / "short.txt"
    short.write_text("too short to be cut")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "expected a text" in refused("train")
    assert "no 'nothing.txt'" in refused("train", "nothing.txt")
    assert "empty file" in refused("train", empty)
    assert "bytes" in refused("train", short)
    assert "train.txt" in refused("train", "--data-dir", folder)
    assert "more than one" in refused("train", short, "--data", "embedded")
    assert "did you mean table1.unimatrix-core" in refused("train", "--experiment", "table1.unimatrix-cor")
    assert "no run to resume" in refused("train", "--experiment", "table1.transformer", "--data",
                                         "embedded", "--resume", "--out", tmp_path / "none")  # fmt: skip


def test_train_takes_no_pipe_and_no_empty_name_for_a_text(refused, tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert f"{tmp_path / 'pipe'}: expected a file, got a FIFO" in refused("train", tmp_path / "pipe")
    assert "/dev/zero: expected a file, got a device" in refused("train", "/dev/zero")
    assert "got an empty text" in refused("train", "")
    assert "got an empty text" in refused("train", "--data", "")


def test_train_names_unknown_presets_and_heads_that_do_not_fit(refused, small_run, tmp_path) -> None:
    text, out = small_run.parent / "sea.txt", tmp_path / "never"
    assert "unimatrix-core" in refused("train", text, "--preset", "unimatrix-cor", "--out", out)
    assert "divisor" in refused("train", text, "--preset", "transformer", "--num-heads", "7", "--out", out)
    assert "cannot be written" in refused("train", text, *SMALL, "--out", text / "below-a-file")


def test_what_can_be_known_without_a_text_is_told_before_one_is_read(
    call, refused, small_run, tmp_path, monkeypatch
) -> None:
    def read(*_):
        raise AssertionError("a text was read")

    monkeypatch.setattr(train_command, "load_corpus", read)
    resume = ("train", "--resume", "--out")
    assert "no run to resume, expected one that holds run.json" in refused(*resume, tmp_path / "none")
    checkpoint = small_run / "checkpoint-000004"
    assert f"; it is a checkpoint of '{small_run}'" in refused(*resume, checkpoint)
    assert "unknown name 'unimatix'" in refused("train", "embedded", "--preset", "unimatix")
    run = f"got its checkpoint '{checkpoint}'; the run is '{small_run}'"
    assert run in refused("runs", checkpoint)


def test_a_text_that_moved_is_named_as_the_runs_own(call, refused, small_run, tmp_path) -> None:
    text, out = tmp_path / "sea.txt", tmp_path / "run"
    shutil.copy(small_run.parent / "sea.txt", text)
    assert call("train", text, *SMALL, "--steps", "1", "--out", out)[0] == 0
    text.rename(tmp_path / "ocean.txt")
    words = f"the text that the run was trained on, '{text}', is not there any more; expected it with --data"
    assert words in refused("eval", out)
    assert words in refused("train", "--resume", "--out", out)


def test_after_training_it_says_where_the_curves_are(call, small_run, tmp_path) -> None:
    text, run = small_run.parent / "sea.txt", tmp_path / "a run"
    words = [*SMALL, "--steps", "2", "--log-every", "1", "--eval-every", "1", "--out", run]
    assert "Curves" not in call("train", text, *words)[1]
    code, out, err = call("train", text, *words, "--overwrite", "--tracker", "tensorboard")
    assert (code, err) == (0, "")
    assert out.endswith(f"\nCurves: tensorboard --logdir '{run}/logs'\n")
    assert list((run / "logs").iterdir())
    # what is trained on and what is validated on are read in one unit
    units = re.findall(r"step \d/2  (?:loss|valid) \d\.\d{4} (.*?)(?:  |\n)", out)
    assert units == ["bits per byte"] * 3


def test_a_binary_file_is_a_text_like_any_other(call, tmp_path) -> None:
    data = tmp_path / "all.bin"
    data.write_bytes(bytes(range(256)) * 10)
    code, _, err = call("train", data, *SMALL, "--steps", "1", "--out", tmp_path / "run")
    assert (code, err) == (0, "")


def test_train_keeps_the_files_of_a_folder_apart_and_so_does_eval(call, refused, small_run, tmp_path) -> None:
    files, run = tmp_path / "files", tmp_path / "run"
    files.mkdir()
    words = (small_run.parent / "sea.txt").read_text()
    for number in range(12):
        (files / f"{number:02}.txt").write_text(words[100 * number : 100 * number + 100])
    code, out, err = call("train", files, "--pack", *SMALL, "--steps", "3", "--out", run)
    assert (code, err) == (0, "")
    assert "Note: 11 documents to train on, 2 to validate with, kept apart: each begins with BOS" in out
    loop = settings_of(run).loop
    assert (loop.pack, loop.bos_share) == (True, None)
    trained = float(out.split("Validation: ")[1].split(" ")[0])
    code, out, _ = call("eval", run)
    assert code == 0
    assert float(out.split(" ")[0]) == pytest.approx(trained, abs=2e-4)
    assert "60 bytes, windows of 16 bytes side by side, each starting afresh, 2 documents kept apart" in out
    # a resume needs to be told nothing, and is not told otherwise
    assert call("train", "--resume", "--out", run, "--steps", "4")[0] == 0
    assert settings_of(run).loop.pack
    # a model that was not trained so reads the folder as one text
    _, out, _ = call("eval", small_run, "--data", files)
    assert "kept apart" not in out
    assert "bos_share: with pack every document begins with BOS" in refused(
        "train", files, "--pack", "--bos-share", "0.1", *SMALL, "--out", tmp_path / "never"
    )
    task = ("--experiment", "recall.unimatrix-core", "--pack", "--out", tmp_path / "never")
    assert "pack: a task has no text" in refused("train", *task)
    assert not (tmp_path / "never").exists()


# eval


def test_eval_reads_the_text_it_was_trained_on_and_states_the_windowing(call, small_run) -> None:
    code, out, _ = call("eval", small_run)
    assert code == 0
    assert "bits per byte, perplexity" in out
    assert "sea.txt, valid" in out
    assert "windows of 16 bytes side by side, each starting afresh" in out


@pytest.mark.parametrize(
    "change", [lambda text: text[:1000], lambda text: "x" + text, lambda text: text + "xy"]
)
def test_eval_refuses_a_runs_own_text_that_has_changed(call, refused, small_run, tmp_path, change) -> None:
    """Its parts are other bytes then: what is called test may have been trained on."""
    text = tmp_path / "sea.txt"
    whole = (small_run.parent / "sea.txt").read_text()
    text.write_text(whole)
    assert call("train", text, *SMALL, "--steps", "1", "--out", tmp_path / "run")[0] == 0
    assert call("eval", tmp_path / "run", "--split", "test")[0] == 0
    text.write_text(change(whole))
    complaint = refused("eval", tmp_path / "run", "--split", "test")
    assert f"data: sea.txt has changed since {tmp_path / 'run'} was trained on it: train text 1," in complaint
    assert "--data names the text" in complaint
    code, out, _ = call("eval", tmp_path / "run", "--split", "test", "--data", text)
    assert (code, "sea.txt, test" in out) == (0, True)


def test_eval_refuses_a_runs_own_folder_with_another_part_or_other_documents(
    call, refused, small_run, tmp_path
) -> None:
    words = (small_run.parent / "sea.txt").read_text()
    splits = tmp_path / "splits"
    splits.mkdir()
    for name, text in (("train", words[:900]), ("valid", words[900:1000]), ("test", words[1000:1100])):
        (splits / f"{name}.txt").write_text(text)
    assert call("train", splits, *SMALL, "--steps", "1", "--out", tmp_path / "run")[0] == 0
    assert call("eval", tmp_path / "run")[0] == 0
    (splits / "valid.txt").write_text(words[:100])
    assert "was trained on it: valid text 100 bytes, sha256 " in refused("eval", tmp_path / "run")
    files = tmp_path / "files"
    files.mkdir()
    for number in range(12):
        (files / f"{number:02}.txt").write_text(words[100 * number : 100 * number + 100])
    assert call("train", files, "--pack", *SMALL, "--steps", "1", "--out", tmp_path / "packed")[0] == 0
    assert call("eval", tmp_path / "packed")[0] == 0
    (files / "00.txt").write_text(words[:200])
    (files / "01.txt").unlink()
    complaint = refused("eval", tmp_path / "packed")
    assert "was trained on it: train documents 11, sha256 " in complaint
    assert ", now 10, sha256 " in complaint


def test_eval_of_a_run_and_of_its_checkpoint_agree_and_say_what_training_said(call, small_run) -> None:
    _, of_run, _ = call("eval", small_run, "--json")
    _, of_checkpoint, _ = call("eval", small_run / "checkpoint-000004", "--json", "--batch-size", "3")
    measured = json.loads(of_run)
    assert json.loads(of_checkpoint)["bpb"] == pytest.approx(measured["bpb"], rel=1e-6)
    assert measured["perplexity"] == pytest.approx(2 ** measured["bpb"])
    assert measured["bytes"] == measured["num_bytes"]
    assert len(measured["sha256"]) == 64
    trained = json.loads((small_run / "run.json").read_text())
    assert trained["data"]["valid"]["sha256"] == measured["sha256"]


def test_eval_of_a_model_that_is_wrong_beyond_all_perplexities(call, small_run, tmp_path) -> None:
    model, tokenizer = load(small_run)
    with torch.no_grad():
        model.get_output_embeddings().weight *= 1e6
    model.save_pretrained(tmp_path / "sure")
    tokenizer.save_pretrained(tmp_path / "sure")
    where = (tmp_path / "sure", "--data", small_run.parent / "sea.txt", "--window", "16")
    code, out, err = call("eval", *where)
    assert (code, err) == (0, "")
    assert "bits per byte, perplexity too large for a number" in out
    _, out, _ = call("eval", *where, "--json")
    measured = json.loads(out)
    assert measured["bpb"] > 1024
    assert measured["perplexity"] is None


def test_eval_takes_the_windows_that_training_was_measured_in(call, small_run, tmp_path) -> None:
    run = tmp_path / "run"
    words = small_run.parent / "sea.txt"
    _, out, _ = call("train", words, *SMALL, "--steps", "2", "--eval-window", "5", "--out", run)
    trained = float(out.split("Validation: ")[1].split(" ")[0])
    _, row, _ = call("eval", run, "--json")
    assert json.loads(row)["bpb"] == pytest.approx(trained, abs=1e-4)
    assert "windows of 5 bytes" in json.loads(row)["windowing"]
    tested = tmp_path / "tested"
    _, out, _ = call("train", words, *SMALL, "--steps", "2", "--eval-split", "test", "--out", tested)
    assert "Validation: " not in out
    _, row, _ = call("eval", tested, "--split", "test", "--json")
    assert json.loads(row)["bpb"] == pytest.approx(float(out.split("Test: ")[1].split(" ")[0]), abs=1e-4)


def test_eval_on_another_split_text_and_windowing(call, refused, small_run, tmp_path) -> None:
    _, split, _ = call("eval", small_run, "--split", "test", "--json")
    _, carried, _ = call("eval", small_run, "--carry-state", "--json")
    _, wide, _ = call("eval", small_run, "--window", "5", "--json")
    assert json.loads(split)["split"] == "test"
    assert json.loads(carried)["windowing"] == "the whole text as one stream, the state carried on"
    assert "windows of 5 bytes" in json.loads(wide)["windowing"]
    other = tmp_path / "other.txt"
    other.write_text("nothing about water at all. " * 20)
    _, elsewhere, _ = call("eval", small_run, "--data", other)
    assert "other.txt, valid" in elsewhere
    assert "window: expected" in refused("eval", small_run, "--window", "0")
    assert "no such folder" in refused("eval", tmp_path / "nowhere" / "at" / "all")
    assert "got both" in refused("eval", small_run, "--data", "embedded", "--data-dir", tmp_path)


def test_eval_as_one_stream_tells_bits_by_position(call, refused, small_run, tmp_path, monkeypatch) -> None:
    text = tmp_path / "sea.txt"
    text.write_text((small_run.parent / "sea.txt").read_text() * 5)
    data = ("--data", text)
    code, out, err = call("eval", small_run, "--carry-state", *data)
    assert (code, err) == (0, "")
    _, row, _ = call("eval", small_run, "--carry-state", *data, "--json")
    measured = json.loads(row)
    assert (measured["carried"], measured["window"]) == (True, None)
    rows = measured["by_position"]
    assert [(row["first"], row["last"]) for row in rows] == [(1, 128), (129, 256), (257, 512)]
    assert sum(row["num_bytes"] for row in rows) == measured["num_bytes"]
    total = sum(row["num_bytes"] * row["bpb"] for row in rows)
    assert total / measured["num_bytes"] == pytest.approx(measured["bpb"], rel=1e-6)
    table = [line.split() for line in out.splitlines() if re.match(r" +\S+-\d+ ", line)]
    assert table == [[f"{r['first']}-{r['last']}", str(r["num_bytes"]), f"{r['bpb']:.4f}"] for r in rows]
    assert "position in the text  bytes  bits per byte\n" in out
    complaint = refused("eval", small_run, "--carry-state", "--window", "5")
    assert "window: expected none, as this model reads the whole text as one stream, got 5" in complaint
    complaint = refused("eval", small_run, "--carry-state", "--batch-size", "5")
    assert "--batch-size: expected none, as with --carry-state one piece of the text is read" in complaint

    # a state that grows with the text is not carried on
    run = tmp_path / "run"
    small = [*SMALL[:6], *SMALL[8:], "--preset", "transformer"]  # which has no state_dim
    assert call("train", text, *small, "--steps", "1", "--out", run)[0] == 0
    for options, window in (((), 4096), (("--window", "50"), 50)):
        code, out, _ = call("eval", run, "--carry-state", *data, *options)
        assert code == 0
        assert f"one stream, in which attention forgets what it read every {window:,} bytes\n" in out
        assert "position in a window" in out
    plain = json.loads(call("eval", run, *data, "--window", "50", "--json")[1])
    cut = json.loads(call("eval", run, *data, "--window", "50", "--carry-state", "--json")[1])
    assert (cut["carried"], cut["window"]) == (False, 50)
    assert cut["bpb"] == pytest.approx(plain["bpb"], rel=1e-6)
    overlapping = "--window", "50", "--stride", "10", "--carry-state"
    again = json.loads(call("eval", run, *data, *overlapping, "--json")[1])
    assert (again["window"], again["stride"]) == (50, 10)
    assert again["bpb"] != cut["bpb"]
    assert "every 10 bytes and reads the last 40 again\n" in call("eval", run, *data, *overlapping)[1]
    assert "--stride: expected none without --carry-state" in refused("eval", run, "--stride", "10")
    # as training measured it
    asked = "--stream-bytes", "200", "--stream-window", "50", "--stream-stride", "10"
    assert call("train", text, *small, "--steps", "1", *asked, "--out", tmp_path / "overlapping")[0] == 0
    for given, stride in (((), 10), (("--window", "50"), None), (("--stride", "25"), 25)):
        row = json.loads(call("eval", tmp_path / "overlapping", "--carry-state", *given, "--json")[1])
        assert (row["window"], row["stride"]) == (50, stride)

    monkeypatch.setattr("unimatrix.cli.progress.LINE_SECONDS", 0.0)
    _, _, err = call("eval", run, "--carry-state", *data, "--window", "200")
    assert re.match(r"sea\.txt, valid: 200 of \d+ bytes, left 0:00:\d\d\n", err)


def test_eval_refuses_a_checkpoint_that_is_cut_short(refused, small_run, tmp_path) -> None:
    shutil.copytree(small_run, tmp_path / "run")
    weights = tmp_path / "run" / "checkpoint-000004" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "checkpoint-000004" in refused("eval", tmp_path / "run")


# generate


def test_generate_streams_the_prompt_and_its_continuation(call, small_run) -> None:
    arguments = ("generate", small_run, "--prompt", "the ", "--max-new-tokens", "30", "--seed", "5")
    code, out, err = call(*arguments)
    assert (code, err) == (0, "")
    assert out.startswith("the ")
    assert len(out) > len("the \n")
    assert call(*arguments)[1] == out
    assert call(*arguments, "--no-echo")[1] == out.removeprefix("the ")
    assert call(*arguments[:-1], "6")[1] != out


def test_generate_writes_each_piece_as_it_comes(small_run, monkeypatch) -> None:
    from unimatrix.cli import main

    class Recorder(io.StringIO):
        pieces = 0

        def flush(self) -> None:
            self.pieces += 1

    recorder = Recorder()
    monkeypatch.setattr("sys.stdout", recorder)
    assert main(["generate", str(small_run), "--prompt", "a", "--max-new-tokens", "20", "--seed", "1"]) == 0
    assert recorder.pieces > 10


def test_generate_fits_its_default_length_to_the_models_positions(call, refused, small_run, tmp_path) -> None:
    text, out = small_run.parent / "sea.txt", tmp_path / "run"
    call("train", text, *SMALL, "--steps", "1", "--max-positions", "16", "--out", out)
    code, printed, _ = call("generate", out, "--prompt", "the sea", "--no-echo", "--temperature", "0")
    assert code == 0
    assert 1 <= len(printed.encode()) <= 3 * (16 - 7) + 1
    assert "max_positions" in refused("generate", out, "--prompt", "the sea", "--max-new-tokens", "100")
    assert "max_positions" in refused("generate", out, "--prompt", "x" * 40)


def test_generate_takes_any_bytes_for_a_prompt(call, refused, small_run, tmp_path) -> None:
    text, out = small_run.parent / "sea.txt", tmp_path / "run"
    assert call("train", text, *SMALL, "--max-positions", "16", "--steps", "1", "--out", out)[0] == 0
    for run in (small_run, out):
        code, _, err = call("generate", run, "--prompt", "a\udcff", "--max-new-tokens", "3")
        assert (code, err) == (0, "")
    code, _, err = call("generate", out, "--prompt", "a\udcff", "--no-echo")
    assert (code, err) == (0, "")


def test_generate_and_eval_refuse_an_altered_checkpoint(refused, small_run, tmp_path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    (weights,) = run.glob("checkpoint-*/model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    for command in ("generate", "eval"):
        assert "model.safetensors: wrong checksum" in refused(command, run)
        assert "model.safetensors: wrong checksum" in refused(command, weights.parent)


@pytest.mark.parametrize("contents", ["{", "[]", "{}", '{"experiment": {"nme": "x"}}'])
def test_eval_names_a_record_that_is_damaged(refused, small_run, tmp_path, contents) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    (checkpoint,) = run.glob("checkpoint-*")
    (checkpoint / "trainer.json").write_text(contents)
    assert "trainer.json: cut short" in refused("eval", run)
    (checkpoint / "checksums.json").unlink()
    complaint = refused("eval", checkpoint)
    assert "trainer.json: " in complaint
    assert "expected" in complaint or "unknown field 'nme'" in complaint


def test_generate_refuses_settings_out_of_range(refused, small_run, tmp_path) -> None:
    assert "temperature" in refused("generate", small_run, "--temperature", "-1")
    assert "top_p" in refused("generate", small_run, "--top-p", "2")
    assert "got a file" in refused("generate", small_run / "run.json")
    assert "no model" in refused("generate", tmp_path)


# models


def test_models_lists_every_preset_with_the_papers_counts(call) -> None:
    code, out, _ = call("models", "--json")
    assert code == 0
    counted = call("models", "--count", "--json")
    # else: unimatrix models --count --json > src/unimatrix/cli/presets.json
    assert counted == (0, out, "")
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows.keys() == presets().keys() | peer_presets().keys() | task_presets().keys()
    beyond = {
        "unimatrix",
        "unimatrix-hybrid",
        "transformer-modern",
        "unimatrix-rosa-exact",
        "unimatrix-discovery-exact",
    }
    for name in presets():  # those that are not the paper's, too
        row = rows[name]
        grows = row["state_bytes"]["4096"] > row["state_bytes"]["128"]
        growing = {"transformer", "unimatrix-assoc", *beyond}
        assert grows == (name in growing or name.startswith("recurrent-ffn"))
        if name in beyond:
            assert row["parameters_bytes"] == parameter_count(build(name))
            continue
        # the paper prints the recall counts alone of models with a memory, and never those of triple-latents
        # and recurrent FFNs, of which the one with a readout has none at all
        if name not in ("unimatrix-assoc", "unimatrix-sparse-pointer", "recurrent-ffn-readout"):
            assert row["parameters_bytes"] == printed_parameters(name)
        if not name.startswith(("triple-", "recurrent-ffn")):
            printed = printed_parameters(name, setting="recall_vocab64_positions128")
            assert row["parameters_recall"] == printed
    # 4 blocks: a convolution over 4 tokens of 2 * 64 + 2 * 100 channels, and 2 * 64 channels of 100 numbers
    sizes = dict.fromkeys(("128", "4096"), 8 + 4 * 4 * (4 * (2 * 64 + 2 * 100) + 2 * 64 * 100))
    assert rows["mamba2"]["state_bytes"] == sizes
    for name in task_presets():
        row = rows[name]
        printed = printed_parameters(name, setting="triple_interaction_vocab53_positions49")
        assert (row["task"], row["vocab_size"], row["parameters"]) == ("triple-interaction", 53, printed)
    # position, task, two tokens of a binding, and 8 tags with 3 roles, 8 bytes each
    assert rows["typed-latent"]["state_bytes"] == {"49": 8 * (1 + 1 + 2 + 8 * 3)}


def test_models_as_a_table_fits_a_terminal(call, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = call("models")
    for name, preset in (PRESETS | PEER_PRESETS | TASK_PRESETS).items():
        assert f"\n {name} " in out
        assert preset.use.split()[0] in out.split(f"\n {name} ")[1].split("\n")[0]
    assert re.search(r"unimatrix-core +text of any length in +83,140 +12\.3 kB +12\.3 kB\n", out)
    assert re.search(r"typed-latent .* 18,496 +224 B\n", out)
    assert max(map(len, out.splitlines())) <= 80


# bench


def test_bench_explains_itself_and_refuses_what_it_does_not_know(call, refused) -> None:
    code, out, _ = call("bench")
    assert code == 0
    assert "throughput" in out
    assert "did you mean decode" in refused("bench", "decod")
    assert "threads" in refused("bench", "decode", "--threads", "0")
    assert "lengths" in refused("bench", "throughput", "--lengths", "0")


def test_bench_passes_its_options_on(call, tmp_path) -> None:
    code, out, _ = call("bench", "decode", "--positions", "2", "4", "--models", "unimatrix-core",
                        "--seconds", "0.01", "--threads", "1", "--out", tmp_path)  # fmt: skip
    assert code == 0
    assert "position       4" in out
    assert json.loads((tmp_path / "decode.json").read_text())["threads"] == 1


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--out", "a"], "a"),
        (["--out=a=b"], "a=b"),
        (["--out", "a", "--out", "b"], "b"),
        (["--outer", "a"], None),
        (["--out"], None),
        ([], None),
    ],
)
def test_option_values_among_raw_arguments(arguments, value) -> None:
    assert option_value(arguments, "--out") == value


def test_the_home_of_nobody_is_one_line(refused):
    for words in (
        ("train", "~nosuch/x.txt"),
        ("train", "--data", "~nosuch/x.txt"),
        ("train", "--data-dir", "~nosuch/x"),
        ("train", "--resume", "--out=~nosuch/run"),
        ("train", "--task", "recall", "--steps", "1", "--out=~nosuch/run"),
        ("inspect", "~nosuch/x"),
        ("eval", "~nosuch/x"),
        ("reproduce", "--studies", "table1", "--data", "~nosuch/x.txt"),
    ):
        assert "~nosuch" in refused(*words), words


def test_a_folder_that_is_called_as_a_source_is_recorded_as_the_folder(call, tmp_path, monkeypatch):
    """Whoever goes on, or evaluates, reads it again, from wherever that is done."""
    folder = tmp_path / "wikitext-2-raw"
    folder.mkdir()
    for name in ("train", "valid", "test"):
        (folder / f"{name}.txt").write_bytes(b"to be or not to be, that is the question " * 40)
    monkeypatch.chdir(tmp_path)
    few = ("--steps", "1", "--batch-size", "1", "--seq-len", "8", "--tracker", "none")
    code, _, err = call("train", "--data-dir", "wikitext-2-raw", "--preset", "lstm", "--out", "run", *few)
    assert code == 0, err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["experiment"]["data"] == str(folder)
    assert choose_corpus(None, Path("wikitext-2-raw"), otherwise="auto")[0] == str(folder)
    (tmp_path / "sea.txt").write_bytes(b"a text by the sea " * 40)
    assert choose_corpus("sea.txt", None, otherwise="auto")[0] == str(tmp_path / "sea.txt")
    monkeypatch.chdir("/")
    assert call("eval", tmp_path / "run")[0] == 0

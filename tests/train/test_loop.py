"""The loop: it learns, it goes on bit for bit, and it counts, shows and logs what happened."""

import io
import json
import math
import re
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from rich.text import Text
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from unimatrix.data import BOS, Corpus, random_windows
from unimatrix.errors import UserError
from unimatrix.evals import bits_per_byte
from unimatrix.hf.checksums import CHECKSUMS, write_checksums
from unimatrix.models import PRESETS as KNOWN
from unimatrix.models import build, edit, parameter_count
from unimatrix.ops import backends_of
from unimatrix.train import load_checkpoint, train
from unimatrix.train import loop as loop_module
from unimatrix.train import run as run_module
from unimatrix.train.checkpoint import latest_checkpoint
from unimatrix.train.progress import reporting
from unimatrix.train.records import read_run
from unimatrix.train.run import LossModule

PRESETS = ["transformer", "unimatrix-core", "unimatrix-rosa", "unimatrix-discovery"]


def weights(result):
    return (result.checkpoint / "model.safetensors").read_bytes()


@pytest.fixture
def fit(tmp_path, text, console):
    """fit(experiment, name="run", ...): train into tmp_path/name, quietly."""

    def run(experiment, *, name="run", **arguments):
        return train(experiment, **({"out": tmp_path / name, "corpus": text, "console": console} | arguments))

    return run


@pytest.mark.parametrize("preset", PRESETS)
def test_it_learns_a_short_text_by_heart(fit, tiny, text, preset):
    verse = Corpus(name="verse", train=text.train[:32], valid=text.train[:32], test=text.train[:32])
    experiment = tiny(preset=preset, steps=200, lr=1e-2, dropout=0.0, d_model=32)
    assert fit(experiment, corpus=verse).final_loss < 0.5


def test_the_first_loss_is_that_of_the_initial_model_on_the_first_batch(fit, tiny, text):
    experiment = tiny(steps=1, dropout=0.0)
    result = fit(experiment)
    torch.manual_seed(experiment.loop.seed)
    model = build(experiment.model.resolved(259))
    batch = random_windows(text.train, seed=experiment.loop.seed, step=0, batch_size=4, seq_len=16)
    with torch.no_grad():
        expected = float(LossModule(model)(batch[:, :-1], batch[:, 1:]))
    assert result.final_loss == pytest.approx(expected, rel=1e-6)


def test_one_step_is_torchs_adamw(fit, tiny, text):
    # eps well above rounding: a gradient that is zero but for rounding must not decide a step's direction
    settings = {"lr": 1e-3, "weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-4}
    experiment = tiny(steps=3, dropout=0.0, **settings)
    result = fit(experiment)
    torch.manual_seed(experiment.loop.seed)
    model = build(experiment.model.resolved(259))
    optimizer = torch.optim.AdamW(model.parameters(), **settings)
    for step in range(3):
        batch = random_windows(text.train, seed=experiment.loop.seed, step=step, batch_size=4, seq_len=16)
        LossModule(model)(batch[:, :-1], batch[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, tensor in result.model.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-5, atol=1e-7, msg=name)


def test_what_is_reported_is_what_happened(fit, tiny, text, tmp_path):
    result = fit(tiny(steps=4, eval_every=2))
    assert (result.steps, result.interrupted, result.stop_signal, result.device) == (4, False, None, "cpu")
    assert result.parameters == parameter_count(result.model)
    assert result.out == tmp_path / "run"
    assert result.checkpoint == tmp_path / "run" / "checkpoint-000004"
    assert not result.model.training
    expected = bits_per_byte(result.model, text.valid, window=16)
    assert result.bpb == pytest.approx(expected.bpb, abs=1e-6)
    assert result.perplexity == pytest.approx(2**result.bpb)
    assert [step for step, _ in result.curve] == [2, 4]
    assert result.curve[-1][1] == result.bpb
    assert result.tokens_per_second == pytest.approx(4 * 4 * 16 / result.seconds)
    assert result.data["train"] == text.fingerprint("train")
    assert result.data["valid"] == text.fingerprint("valid")
    assert (result.backend, result.threads) == ("torch", torch.get_num_threads())


def test_the_backend_of_the_models_op_is_recorded(fit, tiny):
    assert fit(tiny(preset="unimatrix-core", steps=1)).backend in ("compiled", "chunked")
    # of the steps, whatever form the evaluation then takes, which is in float32
    half = fit(tiny(preset="unimatrix", steps=1, precision="bf16"), name="half")
    assert "reference" in half.backend
    assert "reference" not in backends_of(half.model).values()


def test_what_the_stop_question_waits_for_is_time_of_the_step():
    """On an accelerator its look at the other processes waits for the step that was queued."""

    def reduce(wish, **_):
        time.sleep(0.05)
        return wish

    accelerator = SimpleNamespace(num_processes=2, device="cpu", reduce=reduce)
    run = SimpleNamespace(accelerator=accelerator, step=0, seconds=1.0)
    assert not loop_module._anyone_wants_to_stop(run, False)
    assert run.seconds == 1.0  # nothing but the start of the others
    run.step = 1
    assert loop_module._anyone_wants_to_stop(run, True)
    assert 1.05 <= run.seconds < 2.0


def test_what_begins_with_bos_is_learned_where_windows_do(fit, tiny, text):
    def first_byte(result):
        """Nats of the training text's bytes after BOS, by their frequency."""
        with torch.no_grad():
            logits = result.model(torch.tensor([[BOS]]))[0][0, 0]
        return float(torch.nn.functional.cross_entropy(logits.expand(1000, -1), target))

    target = torch.from_numpy(text.train[:1000].astype("int64"))
    settings = {"steps": 60, "lr": 1e-2, "dropout": 0.0, "batch_size": 8}
    begun = first_byte(fit(tiny(bos_share=0.2, **settings), name="begun"))
    never = first_byte(fit(tiny(**settings), name="never"))
    # never having seen BOS, a model knows from its head alone which bytes are frequent
    assert begun < never - 0.1


# ---- going on


@pytest.mark.parametrize("preset", PRESETS)
def test_a_resumed_run_ends_with_the_same_bytes(fit, tiny, preset):
    settings = {"preset": preset, "clip": 0.5, "accumulation": 2, "warmup_steps": 2}
    whole = fit(tiny(steps=7, **settings), name="whole")
    fit(tiny(steps=3, **settings), name="parts")
    torch.rand(17)
    fit(tiny(steps=4, **settings), name="parts", resume=True)
    parts = fit(tiny(steps=7, eval_every=1, save_every=2, **settings), name="parts", resume=True)
    assert weights(parts) == weights(whole)
    for file in ("optimizer.safetensors", "rng.safetensors"):
        assert (parts.checkpoint / file).read_bytes() == (whole.checkpoint / file).read_bytes()
    assert parts.bpb == whole.bpb
    assert parts.steps == 7
    assert parts.final_loss == whole.final_loss


def test_a_resume_that_joins_two_schedules_says_so(fit, tiny, console):
    said = "until step 3 the learning rate fell as in a run of 3 steps, from here on it falls as in one of 5."
    for schedule in ("constant", "cosine"):
        fit(tiny(steps=3, schedule=schedule), name=schedule)
        fit(tiny(steps=5, schedule=schedule), name=schedule, resume=True)
        assert (said in console.file.getvalue().replace("\n", " ")) == (schedule == "cosine")
        fit(tiny(steps=5, schedule=schedule), name=schedule, resume=True)
    assert console.file.getvalue().replace("\n", " ").count(said) == 1


def test_a_run_whose_preset_has_changed_since_says_so_and_can_be_read(fit, tiny, monkeypatch):
    run = fit(tiny(steps=2, preset="transformer"))
    today = KNOWN["transformer"]
    changed = edit(today.config, {"layers.*.feed_forward": "gated_mlp", "depth": 2})
    monkeypatch.setitem(KNOWN, "transformer", today._replace(config=changed))
    said = (
        r"trainer.json: the run's settings come to another model than .* the preset transformer has changed"
    )
    with pytest.raises(UserError, match=said):
        fit(tiny(steps=3, preset="transformer"), resume=True)
    again = tiny(steps=3, preset="transformer")
    as_it_was = {"layers.*.feed_forward": "mlp"}
    again = replace(again, model=replace(again.model, changes={**again.model.changes, **as_it_was}))
    with pytest.raises(UserError, match=said):
        fit(again, resume=True)
    assert load_checkpoint(run.checkpoint).build_model().blocks[0].feed_forward.up.out_features == 64


def test_evaluating_and_saving_on_the_way_change_nothing(fit, tiny):
    plain = fit(tiny(), name="plain")
    often = {"eval_every": 1, "save_every": 1, "log_every": 1, "eval_bytes": 100, "eval_at": (2, 3)}
    busy = fit(tiny(**often), name="busy")
    assert weights(busy) == weights(plain)


def test_asked_steps_are_evaluated_whole_and_stay_in_the_metrics(fit, tiny, text):
    settings = {"eval_every": 2, "eval_bytes": 100}
    result = fit(tiny(steps=6, eval_at=(1, 4, 6), **settings))
    assert [step for step, _ in result.curve] == [1, 2, 4, 6]
    names = {f"{name}_{step}_steps" for name in ("bpb", "seconds") for step in (1, 4, 6)}
    assert result.metrics.keys() == {"bpb", "ppl"} | names
    # the same numbers as of runs that end there: the whole text, not its first 100 bytes
    for step in (1, 4):
        shorter = fit(tiny(steps=step), name=f"short-{step}")
        assert result.metrics[f"bpb_{step}_steps"] == shorter.bpb == dict(result.curve)[step]
    assert dict(result.curve)[2] != fit(tiny(steps=2), name="short-2").bpb
    assert result.metrics["bpb_6_steps"] == result.bpb
    seconds = [result.metrics[f"seconds_{step}_steps"] for step in (1, 4, 6)]
    assert 0 < seconds[0] < seconds[1] < seconds[2] == result.seconds


def test_asked_steps_survive_a_resume(fit, tiny):
    asked = {"eval_at": (2, 3, 5)}
    whole = fit(tiny(steps=6, **asked), name="whole")
    first = fit(tiny(steps=3, eval_at=(2, 3)), name="parts")
    assert "bpb_5_steps" not in first.metrics
    # step 3 was the last one, evaluated after its checkpoint; going on it is one on the way
    parts = fit(tiny(steps=6, **asked), name="parts", resume=True)
    assert parts.metrics.keys() == whole.metrics.keys()
    for name in ("bpb_2_steps", "bpb_3_steps", "bpb_5_steps", "bpb"):
        assert parts.metrics[name] == whole.metrics[name]
    assert parts.metrics["seconds_2_steps"] == first.metrics["seconds_2_steps"]


def test_a_checkpoint_from_before_there_were_asked_steps_goes_on(fit, tiny, tmp_path):
    fit(tiny(steps=2))
    for path in (tmp_path / "run" / "checkpoint-000002" / "trainer.json", tmp_path / "run" / "run.json"):
        values = json.loads(path.read_text())
        values.pop("at_steps", None)
        del values["experiment"]["loop"]["eval_at"]
        path.write_text(json.dumps(values))
    (tmp_path / "run" / "checkpoint-000002" / CHECKSUMS).unlink()
    write_checksums(tmp_path / "run" / "checkpoint-000002")
    assert fit(tiny(steps=3), resume=True).metrics.keys() == {"bpb", "ppl"}


def test_runs_differ_by_seed_and_agree_without(fit, tiny):
    first, again = fit(tiny(), name="a"), fit(tiny(), name="b")
    other = fit(tiny(seed=8), name="c")
    assert weights(first) == weights(again)
    assert weights(first) != weights(other)


def test_a_finished_run_resumed_is_only_evaluated_again(fit, tiny):
    first = fit(tiny())
    again = fit(tiny(), resume=True)
    assert (again.bpb, again.steps, again.seconds) == (first.bpb, first.steps, first.seconds)
    assert again.checkpoint == first.checkpoint


def test_only_the_last_checkpoints_stay(fit, tiny, tmp_path):
    fit(tiny(steps=7, save_every=2, keep_checkpoints=2))
    assert sorted(path.name for path in tmp_path.glob("run/checkpoint-*")) == [
        "checkpoint-000006",
        "checkpoint-000007",
    ]
    trainer = load_checkpoint(tmp_path / "run" / "checkpoint-000007").trainer
    assert (trainer.step, trainer.experiment.loop.steps) == (7, 7)


def test_the_callers_random_numbers_are_left_alone(fit, tiny):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(tiny(steps=2))
    assert torch.equal(torch.rand(3), expected)


# ---- arithmetic


@pytest.mark.parametrize("preset", ["transformer", "unimatrix-discovery"])
def test_accumulation_gives_the_gradient_of_the_whole_batch(fit, tiny, preset):
    """Of spectral normalisation too, which follows its matrix once a step."""
    given = {"preset": preset, "dropout": 0.0, "steps": 3}
    whole = fit(tiny(**given), name="whole")
    pieces = fit(tiny(**given, accumulation=4), name="pieces")
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(pieces.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
    assert pieces.final_loss == pytest.approx(whole.final_loss, rel=1e-5)
    assert pieces.bpb == pytest.approx(whole.bpb, rel=1e-5)


def test_clipping_bounds_the_gradient(fit, tiny):
    # AdamW does not care for the gradient's scale, only eps does: a tiny gradient barely moves the weights
    free = fit(tiny(steps=1, eps=1.0, lr=1.0, weight_decay=0.0), name="free")
    clipped = fit(tiny(steps=1, eps=1.0, lr=1.0, weight_decay=0.0, clip=1e-4), name="clipped")
    torch.manual_seed(7)
    start = build(tiny().model.resolved(259)).state_dict()

    def moved(result):
        parts = [(tensor - start[name]).norm() ** 2 for name, tensor in result.model.state_dict().items()]
        return float(sum(parts)) ** 0.5

    assert moved(free) > 0.01
    assert moved(clipped) < 1.1e-4


def test_bf16_on_the_cpu_is_close_to_fp32_and_keeps_fp32_weights(fit, tiny):
    full = fit(tiny(steps=20, dropout=0.0), name="fp32")
    half = fit(tiny(steps=20, dropout=0.0, precision="bf16"), name="bf16")
    assert half.final_loss == pytest.approx(full.final_loss, rel=0.02)
    assert half.final_loss != full.final_loss
    assert all(parameter.dtype == torch.float32 for parameter in half.model.parameters())
    # and back, in one process
    assert weights(fit(tiny(steps=20, dropout=0.0), name="again")) == weights(full)


def test_the_schedule_reaches_the_optimiser(fit, tiny):
    still = fit(tiny(steps=2, lr=1e-2, schedule="linear", weight_decay=0.0), name="a")
    moving = fit(tiny(steps=2, lr=1e-2, weight_decay=0.0), name="b")
    # the last step of a line to zero moves nothing: the second step has lr 0
    one = fit(tiny(steps=1, lr=1e-2, weight_decay=0.0), name="c")
    assert weights(still) == weights(one)
    assert weights(moving) != weights(one)


# ---- what is shown and logged


def test_lines_where_there_is_no_terminal(fit, tiny, console):
    fit(tiny(steps=6, log_every=2, eval_every=4))
    lines = console.file.getvalue().splitlines()
    pattern = r"step (\d)/6  loss \d\.\d{4} bits per byte  lr 3\.00e-04  [\d,]+ tokens/s  left \d+:\d\d:\d\d"
    assert [re.fullmatch(pattern, line)[1] for line in lines if "loss" in line] == ["2", "4", "6"]
    assert sum(line.startswith("step 4/6  valid ") for line in lines) == 1
    assert len(lines) == 4


def test_a_bar_on_a_terminal(fit, tiny):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120, legacy_windows=False)
    fit(tiny(steps=6, log_every=2, name="poem"), console=terminal)
    shown = terminal.file.getvalue()
    for part in ("poem", "6/6", "loss", "tokens/s"):
        assert part in shown


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("name", ["poem", "fight-long.transformer-modern-votes"])
def test_a_narrow_terminal_cuts_the_figures_and_not_the_time_left(width, name):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=width, legacy_windows=False)
    with reporting(terminal, name=name, start=0, steps=12_000) as reporter:
        reporter.advance(1)
        figures = {"loss": "3.2140 nats per token", "lr": 1e-3, "tokens_per_second": 14_500.0}
        reporter.measure(1200, **figures, seconds_left=100.0)
        time.sleep(0.15)  # a look of the bar's own thread
    lines = [Text.from_ansi(line).plain for line in re.split(r"[\r\n]", terminal.file.getvalue())]
    last = [line for line in lines if "loss" in line][-1].rstrip()
    assert last.startswith(name[:4])
    assert re.search(r" 1200/12000 (\d|-):(\d\d|--):(\d\d|--) loss 3\.2", last)
    assert len(last) <= width


@pytest.mark.parametrize("name", ["v2 [/final]", "[bold red]poem[/]", "[link=x]", "{0} {x}", "%s"])
def test_a_name_is_shown_as_it_is(fit, tiny, name):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120, legacy_windows=False)
    fit(tiny(steps=2, log_every=1, name=name, tracker="tensorboard"), console=terminal)
    assert name in terminal.file.getvalue()


def test_tensorboard_has_the_curves_and_a_resume_continues_them(fit, tiny, tmp_path):
    fit(tiny(steps=4, log_every=1, eval_every=2, tracker="tensorboard"))
    # files are read by name: the second, then a count of this process, in which 10 is before 9
    time.sleep(1.0)
    fit(tiny(steps=6, log_every=1, eval_every=2, tracker="tensorboard"), resume=True)
    events = EventAccumulator(str(tmp_path / "run" / "logs")).Reload()
    assert [point.step for point in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [point.step for point in events.Scalars("valid/bpb")] == [2, 4, 6]
    assert set(events.Tags()["scalars"]) == {
        "train/loss",
        "train/bpb",
        "train/lr",
        "train/tokens_per_second",
        "valid/bpb",
        "valid/ppl",
    }


def test_no_tracker_writes_no_logs(fit, tiny, tmp_path):
    fit(tiny(steps=1, tracker="none"))
    assert not (tmp_path / "run" / "logs").exists()


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_another_tracker_is_used_where_it_is_installed_and_a_resume_is_the_same_run(
    fit, tiny, monkeypatch, name
):
    import importlib.machinery
    import sys
    import types

    calls = []
    session = types.SimpleNamespace(
        log=lambda values, step: calls.append((step, sorted(values))), finish=lambda: calls.append("finish")
    )
    package = types.ModuleType(name)
    package.__spec__ = importlib.machinery.ModuleSpec(name, None)
    package.init = lambda **settings: calls.append(settings) or session
    monkeypatch.setitem(sys.modules, name, package)
    fit(tiny(steps=2, log_every=1, tracker=name))
    fit(tiny(steps=3, log_every=1, tracker=name), resume=True)
    fit(tiny(steps=1, log_every=1, tracker=name), overwrite=True)
    starts = [call for call in calls if isinstance(call, dict)]
    assert all(start["project"] == "unimatrix" and start["resume"] == "allow" for start in starts)
    assert [start["config"]["loop"]["steps"] for start in starts] == [2, 3, 1]
    known_as = {"trackio": "name", "wandb": "id"}[name]
    assert starts[0]["name"].startswith("tiny")
    assert starts[0][known_as] == starts[1][known_as] != starts[2][known_as]
    assert calls.count("finish") == 3
    assert (2, ["valid/bpb", "valid/ppl"]) in calls


# ---- what must not happen


def test_a_loss_that_is_no_number_stops_at_its_step_and_keeps_the_last_checkpoint(fit, tiny, tmp_path):
    experiment = tiny(steps=200, lr=1e4, save_every=1, keep_checkpoints=1, dropout=0.0)
    with pytest.raises(
        UserError, match=r"no longer a finite number at step (\d+); the last good one is"
    ) as caught:
        fit(experiment)
    step = int(re.search(r"at step (\d+)", str(caught.value))[1])
    (folder,) = tmp_path.glob("run/checkpoint-*")
    assert folder.name == f"checkpoint-{step - 1:06d}"
    loaded = load_checkpoint(folder)
    assert all(tensor.isfinite().all() for tensor in loaded.weights.values())
    assert math.isfinite(loaded.trainer.loss)


@pytest.mark.parametrize("preset", [*PRESETS, "unimatrix-sparse-pointer", "triple-hybrid", "mamba2"])
@pytest.mark.parametrize(("eval_every", "step"), [(None, 4), (3, 3)])
def test_whoever_meets_a_lost_number_first_the_step_is_named(
    fit, tiny, monkeypatch, preset, eval_every, step
):
    real = torch.optim.AdamW.step

    def spoil(self, *arguments, **named):
        result = real(self, *arguments, **named)
        for parameter, state in self.state.items():
            if state["step"] == 3:
                parameter.data.fill_(math.nan)
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    experiment = tiny(preset=preset, save_every=2, eval_every=eval_every, dropout=0.0)
    with pytest.raises(
        UserError,
        match=rf"^training stopped.* at step {step}[:;] .*the last good one is .*checkpoint-000002; a new "
        "run with a learning rate below .* may help, or gradients clipped",
    ):
        fit(experiment)


def test_steps_that_loss_scaling_leaves_out_are_kept_as_none(fit, tiny, monkeypatch):
    whole = fit(tiny(steps=2), name="whole")
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", lambda self, *arguments, **named: None)
        fit(tiny(steps=1))
    assert fit(tiny(steps=2), resume=True).steps == whole.steps


def test_weights_that_are_no_numbers_are_not_saved(fit, tiny, tmp_path, monkeypatch):
    # a finite loss whose gradient is not: the loss would show it one step too late
    real = torch.optim.AdamW.step

    def spoil(self, *arguments, **named):
        result = real(self, *arguments, **named)
        self.param_groups[0]["params"][0].data[0, 0] = math.nan
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    with pytest.raises(
        UserError, match="a weight is no longer a finite number at step 1; no checkpoint was written"
    ):
        fit(tiny(save_every=1))
    assert not list(tmp_path.glob("run/checkpoint-*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "fp16"}, "precision: fp16 needs a CUDA device, got cpu"),
        ({"device": "mps"}, "device: mps asked for"),
        ({"preset": "transfromer"}, "transformer"),
        ({"d_model": 15}, "num_heads|d_model"),
    ],
)
def test_what_cannot_run_here_is_refused_before_anything_is_written(fit, tiny, tmp_path, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        fit(tiny(**settings))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ([], "needs accelerate; pip install 'unimatrix-lm[train]'"),
        (["accelerate"], "needs wandb; pip install wandb"),
    ],
)
def test_a_package_that_is_not_there_is_told_before_anything_is_written(
    fit, tiny, tmp_path, monkeypatch, installed, message
):
    monkeypatch.setattr("unimatrix.extras.find_spec", lambda name: name if name in installed else None)
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        fit(tiny(tracker="wandb"))
    assert not (tmp_path / "run").exists()


def test_a_text_shorter_than_one_window_is_refused(fit, tiny, text, tmp_path):
    short = Corpus(name="haiku.txt", train=text.train[:16], valid=text.valid, test=text.test)
    with pytest.raises(UserError, match=r"haiku.txt \(train\): expected at least 17 bytes.*got 16"):
        fit(tiny(), corpus=short)
    empty = Corpus(name="haiku.txt", train=text.train, valid=text.valid[:0], test=text.test)
    with pytest.raises(UserError, match=r"haiku.txt \(valid\): expected at least 1 byte"):
        fit(tiny(), corpus=empty)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["__init__", "add_scalar", "close"])
def test_curves_that_cannot_be_written_are_one_line(fit, tiny, tmp_path, monkeypatch, method):
    from torch.utils.tensorboard import SummaryWriter

    def full(self, *arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, method, full)
    with pytest.raises(UserError, match=r"logs: the curves could not be written \(No space left on device\)"):
        fit(tiny(tracker="tensorboard"))


def test_no_curve_is_worth_a_step(fit, tiny, tmp_path, monkeypatch):
    """Where a point cannot be written the run is saved first, and at the end what it came to is kept."""
    from torch.utils.tensorboard import SummaryWriter

    real, steps = SummaryWriter.add_scalar, []

    def full_at_last(self, tag, value, global_step, *arguments, **named):
        steps.append(global_step)
        if global_step >= full_from:
            raise OSError(28, "No space left on device")
        return real(self, tag, value, global_step, *arguments, **named)

    monkeypatch.setattr(SummaryWriter, "add_scalar", full_at_last)
    settings = tiny(steps=4, log_every=1, tracker="tensorboard")
    for full_from, saved in ((2, 2), (4, 4)):
        with pytest.raises(UserError, match=r"logs: the curves could not be written \(No space left"):
            fit(settings, overwrite=True)
        assert latest_checkpoint(tmp_path / "run").name == f"checkpoint-{saved:06}"
        assert steps.count(full_from) == 1  # no point is tried after one that could not be written
        steps.clear()
    assert read_run(tmp_path / "run" / "run.json").metrics.keys() >= {"bpb"}


def test_a_run_that_is_killed_before_it_saved_leaves_no_points_behind(fit, tiny, tmp_path, monkeypatch):
    settings = tiny(steps=4, log_every=1, tracker="tensorboard")
    real = run_module.Run.save
    monkeypatch.setattr(run_module.Run, "save", lambda self, out: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(settings)
    monkeypatch.setattr(run_module.Run, "save", real)
    time.sleep(1.0)
    fit(settings, resume=True)
    events = EventAccumulator(str(tmp_path / "run" / "logs")).Reload()
    assert [point.step for point in events.Scalars("train/loss")] == [1, 2, 3, 4]


def test_the_first_error_is_the_one_reported(fit, tiny, monkeypatch):
    from torch.utils.tensorboard import SummaryWriter

    def full(self, *arguments, **named):
        raise OSError(28, "No space left on device")

    def fail(self, out):
        raise UserError("the checkpoint could not be written")

    monkeypatch.setattr(SummaryWriter, "close", full)
    monkeypatch.setattr(run_module.Run, "save", fail)
    with pytest.raises(UserError, match="the checkpoint could not be written"):
        fit(tiny(tracker="tensorboard"))


def test_compile_trains_through_torch_compile_and_saves_the_plain_names(fit, tiny, monkeypatch):
    compiled = []

    def compile_(module):
        compiled.append(type(module).__name__)
        return module

    plain = fit(tiny(), name="plain")
    monkeypatch.setattr(torch, "compile", compile_)
    result = fit(tiny(compile=True), name="compiled")
    assert compiled == ["LossModule"]
    assert set(load_checkpoint(result.checkpoint).weights) == set(plain.model.state_dict())

"""The benchmarks' bookkeeping: what is counted, compared, refused and written. No test looks at a speed."""

import json
import time

import pytest
import torch

from unimatrix import UserError, build
from unimatrix.bench import chunk_length, decode, equality, recall, throughput
from unimatrix.bench.ceiling import measure_ceiling, multiply_adds
from unimatrix.bench.timing import _summary, time_in_turns
from unimatrix.models import parameter_count
from unimatrix.ops import backends_of

QUICK = {"seconds": 0.01, "say": lambda line: None}


def test_candidates_take_turns():
    calls = []
    timings = time_in_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, min_rounds=3, max_rounds=3, warmup=1
    )
    assert calls == ["a", "b"] * 4
    assert {name: timing.calls for name, timing in timings.items()} == {"a": 3, "b": 3}
    assert all(timing.low_s <= timing.median_s <= timing.high_s for timing in timings.values())


def test_multiply_adds_are_counted_by_hand():
    batch, length = 2, 8
    transformer = measure_ceiling(build("transformer"), batch, length)
    per_token = 3 * (4 * 64 * 64 + 8 * 64 * 64) + 64 * 259
    causal = 3 * batch * (length * (length + 1) // 2) * 2 * 64
    assert transformer.multiply_adds == batch * length * per_token + causal
    core = measure_ceiling(build("unimatrix-core"), batch, length)
    per_token = 3 * (3 * 64 * 64 + 64 * 68 + 64 * 64 + 8 * 64 * 64 + 4 * 3 * 16 * 16) + 64 * 259
    assert core.multiply_adds == batch * length * per_token
    convolved = build("unimatrix-core", **{"layers.*.mixer.kernel_size": 4})
    more = measure_ceiling(convolved, batch, length).multiply_adds - core.multiply_adds
    assert more == batch * length * 3 * 4 * 3 * 64
    # rules that are mixed: their weights, the projection d, one more product of k and v, and the diagonal
    mixing = measure_ceiling(build("unimatrix-core", **{"layers.*.mixer.rule_mixing": True}), batch, length)
    of_a_step = 64 * 64 + 64 * 3 * 4 + 4 * (16 * 16 + 16)
    assert mixing.multiply_adds - core.multiply_adds == batch * length * 3 * of_a_step
    assert core.share(2 * core.multiply_adds / core.product_rate) == pytest.approx(0.5)


def test_mamba2_is_counted_too():
    inner, state, convolved = 128, 100, 328
    block = 64 * (inner + convolved + 2) + inner * 64 + 4 * convolved + 3 * inner * state
    assert multiply_adds(build("mamba2"), 8) == 8 * (4 * block + 64 * 259)
    with pytest.raises(UserError, match=r"^multiply-adds: expected a model of texts, got TypedLatent"):
        multiply_adds(build("typed-latent"), 8)


def test_shared_blocks_are_counted_at_every_depth_step():
    shallow, deep = (measure_ceiling(build("unimatrix-core", depth=d), 1, 4).multiply_adds for d in (1, 5))
    head = 4 * 64 * 259
    assert deep - head == 5 * (shallow - head)
    assert parameter_count(build("unimatrix-core", depth=1)) == parameter_count(build("unimatrix-core"))


def test_throughput_writes_rows_ratios_and_plots(tmp_path):
    path = throughput.run(tmp_path, lengths=(4, 6), modes=("eager",), **QUICK)
    result = json.loads(path.read_text())
    assert {(r["model"], r["length"], r["what"]) for r in result["rows"]} == {
        (model, length, what)
        for model in ("transformer", "unimatrix-core")
        for length in (4, 6)
        for what in ("forward", "training")
    }
    assert {"commit", "date", "machine", "threads", "device", "versions"} <= result.keys()
    for ratio in result["ratios"]:
        rows = {
            row["model"]: row["tokens_per_s"]
            for row in result["rows"]
            if (row["length"], row["what"]) == (ratio["length"], ratio["what"])
        }
        assert ratio["ratio"] == pytest.approx(rows["unimatrix-core"] / rows["transformer"])
    assert (tmp_path / "throughput.png").stat().st_size > 5000
    assert "<svg" in (tmp_path / "throughput.svg").read_text()


def test_the_better_mode_counts():
    def row(model, mode, tokens_per_s):
        return throughput.Row(
            model=model,
            form="fast",
            length=4,
            batch=8,
            what="forward",
            mode=mode,
            timing=throughput.Timing(median_s=1.0, low_s=1.0, high_s=1.0, mean_s=1.0, calls=1),
            tokens_per_s=tokens_per_s,
            ceiling_share=0.1,
            backends={},
        )

    rows = [
        row("transformer", "eager", 10.0),
        row("transformer", "compile", 20.0),
        row("unimatrix-core", "eager", 60.0),
        row("unimatrix-core", "compile", 30.0),
        row("mamba2", "eager", 5.0),
    ]
    ours = ["transformer", "unimatrix-core"]
    (ratio,) = throughput.ratios(rows[:4])
    assert (ratio["ratio"], ratio["mode"], ratio["baseline_mode"]) == (3.0, "eager", "compile")
    over_peer = throughput.peer_ratios(rows, ours, ["mamba2"])
    assert [(r["model"], r["peer"], r["ratio"], r["mode"], r["peer_mode"]) for r in over_peer] == [
        ("transformer", "mamba2", 4.0, "compile", "eager"),
        ("unimatrix-core", "mamba2", 12.0, "eager", "eager"),
    ]


def test_a_loop_in_python_is_timed_beside_the_fast_form():
    result = throughput.measure(
        models=("unimatrix-core",),
        lengths=(4, 8),
        passes=("forward",),
        modes=("eager",),
        forms=("fast", "loop"),
        rounds=1,
        ceilings=False,
        **QUICK,
    )
    rows = {(row["model"], row["form"], row["length"]): row for row in result["rows"]}
    assert rows.keys() == {
        (*timed, length)
        for timed in (("transformer", "fast"), ("unimatrix-core", "fast"), ("unimatrix-core", "loop"))
        for length in (4, 8)
    }
    assert set(rows["unimatrix-core", "loop", 4]["backends"].values()) == {"reference"}
    assert "reference" not in rows["unimatrix-core", "fast", 4]["backends"].values()
    assert all(row["ceiling_share"] is None for row in result["rows"])
    for ratio in result["ratios"]:
        own, base = (
            rows[ratio["model"], ratio["form"], ratio["length"]],
            rows["transformer", "fast", ratio["length"]],
        )
        assert ratio["ratio"] == pytest.approx(own["tokens_per_s"] / base["tokens_per_s"])
    assert {(one["model"], one["form"]) for one in result["ratios"]} == {
        ("unimatrix-core", "fast"),
        ("unimatrix-core", "loop"),
    }
    for one in result["flatness"]:
        at = [rows[one["model"], one["form"], length]["tokens_per_s"] for length in (8, 4)]
        assert one["ratio"] == pytest.approx(at[0] / at[1])
    assert len(result["flatness"]) == 3


def test_a_quick_candidate_is_called_often_within_its_turn():
    timings = time_in_turns(
        {"quick": lambda: None, "slow": lambda: time.sleep(0.02)},
        seconds=0.001,
        min_rounds=1,
        warmup=0,
        turn_s=0.01,
    )
    assert timings["slow"].calls == 1
    assert timings["quick"].calls > 10


def test_a_turn_is_as_many_calls_as_fill_it_and_the_mean_counts_what_the_median_does_not():
    last, calls = [], []

    def call(name):
        first = last[-1:] != [name]
        last.append(name)
        if name == "a":
            calls.append("first" if first else "later")
        time.sleep(0.03 if first else 0.001)

    candidates = {name: lambda name=name: call(name) for name in ("a", "b")}
    settings = {"min_rounds": 3, "max_rounds": 3, "seconds": 0.001, "warmup": 0, "turn_s": 0.02}
    timings = time_in_turns(candidates, **settings)
    assert calls.count("first") == 3
    assert timings["a"].calls == len(calls) >= 3
    last.clear()
    calls.clear()
    timings = time_in_turns(candidates, **(settings | {"turn_s": 0.0}))
    assert timings["a"].calls == calls.count("first") == 3
    found = _summary([1.0, 1.0, 1.0, 9.0])
    assert (found.median_s, found.mean_s) == (1.0, 3.0)


def test_what_comes_before_a_call_comes_before_each_and_is_not_timed():
    order = []

    def before():
        order.append("before")
        time.sleep(0.02)

    timings = time_in_turns(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")},
        before={"a": before},
        seconds=0.001,
        min_rounds=2,
        max_rounds=2,
        warmup=1,
    )
    assert timings["a"].median_s < 0.01
    assert order == ["before", "a", "b"] * 3


def test_nothing_is_timed_when_the_fast_form_is_wrong(tmp_path, monkeypatch):
    from unimatrix.ops import matrix_state as op

    def wrong(*args, **kwargs):
        y, state = op(*args, **kwargs)
        return (y * 1.01 if kwargs["backend"].ran != "reference" else y), state

    monkeypatch.setattr("unimatrix.mixers.matrix_state.matrix_state", wrong)
    with pytest.raises(UserError, match="unimatrix-core: the fast form differs from the reference"):
        throughput.run(tmp_path, lengths=(4,), modes=("eager",), **QUICK)
    assert not list(tmp_path.iterdir())


def test_a_wrong_compiled_model_is_refused():
    model = build("unimatrix-core")
    ids = torch.zeros(1, 5, dtype=torch.int64)
    with pytest.raises(UserError, match=r"under torch\.compile differs from eager mode"):
        equality.check_compiled(lambda x: (model(x)[0] + 1.0, None), model, ids, "unimatrix-core")


def test_without_a_compiler_eager_mode_is_measured_and_it_is_said(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    said = []
    assert throughput.runnable_modes(("eager", "compile"), said.append) == ["eager"]
    assert "no C++ compiler" in said[0]


def test_recall_compares_training_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(recall, "SETTINGS", {"recall": (2, 32)})
    path = recall.run(tmp_path, models=("unimatrix-assoc",), lengths=(16, 32), modes=("eager",), **QUICK)
    result = json.loads(path.read_text())
    (ratio,) = result["ratios"]
    steps = {row["model"]: row["timing"]["median_s"] for row in result["rows"] if row["setting"] == "recall"}
    assert ratio["model"] == "unimatrix-assoc"
    assert ratio["ratio"] == pytest.approx(steps["unimatrix-assoc"] / steps["transformer"])
    assert [row["length"] for row in result["growth"]] == [16, 32]
    assert result["growth"][0]["over_shortest"] == 1.0
    assert result["equality"].keys() == {"transformer", "unimatrix-assoc", "unimatrix-sparse-pointer"}
    assert (tmp_path / "recall.png").stat().st_size > 5000


def test_recall_refuses_a_length_without_room(tmp_path):
    with pytest.raises(UserError, match="length: expected at least 11"):
        recall.run(tmp_path, models=(), lengths=(4,), modes=("eager",), **QUICK)


def test_a_memory_adds_to_the_ceiling():
    counts = {}
    for name in ("unimatrix-core", "unimatrix-assoc", "unimatrix-sparse-pointer"):
        counts[name] = measure_ceiling(build(name), 1, 8).multiply_adds
    # three steps of four 64 x 64 products and causal attention of width 64; a memory of 16 numbers a slot
    assert counts["unimatrix-assoc"] - counts["unimatrix-core"] == 3 * (8 * 4 * 64 * 64 + 36 * 2 * 64)
    linear = 8 * (64 * 48 + 16 * 64 + 2 * 64)
    assert counts["unimatrix-sparse-pointer"] - counts["unimatrix-core"] == linear + 8 * 32 * 3 * 16


def test_the_latent_models_count_their_convolution_and_their_slots():
    counts = {
        name: measure_ceiling(build(name), 1, 8).multiply_adds
        for name in ("triple-latent", "triple-slot", "triple-hybrid")
    }
    per_token = 3 * (64 * 264 + 64 * 64 + 8 * 64 * 64) + 64 * 259
    assert counts["triple-latent"] == 8 * (per_token + 3 * 4 * 3 * 16 * 16)
    assert counts["triple-slot"] == 8 * (per_token + 3 * 4 * 5 * 2 * 16)
    assert counts["triple-hybrid"] - counts["triple-latent"] == 8 * 5 * 64 * 64


def test_recurrent_ffns_have_the_transformers_products_and_a_scan():
    counts = {
        name: measure_ceiling(build(name), 1, 8).multiply_adds
        for name in ("transformer", "recurrent-ffn", "recurrent-ffn-hybrid")
    }
    assert counts["recurrent-ffn"] - counts["transformer"] == 8 * 3 * 2 * 128
    assert counts["recurrent-ffn-hybrid"] - counts["transformer"] == 8 * 3 * (3 * 64 + 64 + 64)


@pytest.mark.parametrize(
    "name",
    [
        *("unimatrix", "unimatrix-core", "triple-latent", "triple-slot", "triple-hybrid", "recurrent-ffn"),
        *("transformer-modern", "m2rnn"),
    ],
)
def test_equality_is_measured_against_the_reference_form(name, monkeypatch):
    held_against = []
    real = equality._reference_logits

    def reference_logits(model, ids):
        held_against.append(model)
        return real(model, ids)

    monkeypatch.setattr(equality, "_reference_logits", reference_logits)
    assert equality.check_equality(name) < equality.EQUALITY_TOLERANCE
    assert set(backends_of(held_against[0]).values()) == {"reference"}


def test_a_gated_layer_has_a_reference_form_and_no_loop():
    loops = {name: equality.as_loops(build(name)) for name in ("unimatrix", "transformer-modern", "m2rnn")}
    assert loops == {"unimatrix": True, "transformer-modern": False, "m2rnn": True}


def test_decode_compares_positions(tmp_path):
    path = decode.run(tmp_path, models=("unimatrix-core", "transformer"), positions=(4, 40), **QUICK)
    rows = {(row["model"], row["position"]): row for row in json.loads(path.read_text())["rows"]}
    assert rows["unimatrix-core", 4]["state_bytes"] == rows["unimatrix-core", 40]["state_bytes"]
    assert rows["transformer", 40]["state_bytes"] > 9 * rows["transformer", 4]["state_bytes"]
    assert rows["unimatrix-core", 4]["over_nearest"] == 1.0


def test_decode_apart_from_reading_and_by_batch():
    result = decode.measure(
        models=("unimatrix-core", "mamba2"),
        positions=(4, 40),
        batches=(1, 3),
        most_tokens=60,
        rounds=1,
        **QUICK,
    )
    assert result["equality"].keys() == {"unimatrix-core", "mamba2"}
    cells = [(row["model"], row["batch"], row["position"]) for row in result["rows"]]
    assert cells == [
        (model, batch, position)
        for batch, position in ((1, 4), (1, 40), (3, 4))
        for model in ("unimatrix-core", "mamba2")
    ]
    assert all(row["first_token_ms"] > 0 and row["us_per_token"] > 0 for row in result["rows"])
    of_core = {
        (row["batch"], row["position"]): row for row in result["rows"] if row["model"] == "unimatrix-core"
    }
    assert of_core[3, 4]["state_bytes"] == 3 * of_core[1, 4]["state_bytes"]


def test_tokens_are_timed_behind_the_newest_state():
    """Behind an older one a part that keeps the text would make an index anew, which no decoding does."""
    read = []

    def model(token, state):
        read.append((token.shape, state))
        return None, state + 1

    begin, each = decode._decoder(model, 0, 2, "cpu")
    for _ in range(2):
        read.clear()
        begin()
        assert each() == 1 + decode.TOKENS_PER_CALL
        assert read == [((2, 1), number) for number in range(1 + decode.TOKENS_PER_CALL)]


def test_a_model_whose_state_is_wrong_is_not_decoded(monkeypatch):
    forgetful = build("unimatrix-core", max_positions=None)
    forget = forgetful.forward
    monkeypatch.setattr(forgetful, "forward", lambda ids, state=None: (forget(ids)[0], None))
    monkeypatch.setattr(equality, "build", lambda name, **changes: forgetful)
    with pytest.raises(UserError, match="unimatrix-core: one token at a time differs from the whole"):
        decode.measure(models=("unimatrix-core",), positions=(4,), **QUICK)


def test_chunk_length_covers_every_length(tmp_path):
    path = chunk_length.run(tmp_path, lengths=(8,), chunk_lengths=(2, 8), **QUICK)
    rows = json.loads(path.read_text())["rows"]
    assert [(row["length"], row["chunk_len"]) for row in rows] == [(8, 2), (8, 8)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": (0,)}, "lengths: expected at least 1, got 0"),
        ({"passes": ("backward",)}, "passes: expected one of forward, training, got 'backward'"),
        ({"modes": ("fast",)}, "modes: expected one of eager, compile, got 'fast'"),
        ({"lengths": ()}, "at least one length"),
        ({"forms": ("loop",)}, "forms: expected fast among them"),
        ({"forms": ("fast", "slow")}, "forms: expected one of fast, loop, got 'slow'"),
        ({"repeats": 0}, "repeats: expected at least 1, got 0"),
        ({"models": ("unimatrix-cor",)}, "unknown name 'unimatrix-cor'"),
    ],
)
def test_wrong_settings_are_named(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        throughput.run(tmp_path, **({"lengths": (4,), "modes": ("eager",)} | options), **QUICK)


def test_wrong_positions_are_named(tmp_path):
    with pytest.raises(UserError, match="positions and batches: expected at least one"):
        decode.run(tmp_path, positions=(), **QUICK)


def test_many_models_are_compiled_or_none_is_timed():
    """Past torch.compile's limit of versions a model would run eagerly and be called compiled."""
    from torch._dynamo import config
    from torch._dynamo.exc import FailOnRecompileLimitHit

    before = config.recompile_limit

    def forward(model: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return model(x)

    def compile_all(number: int) -> None:
        compiled = torch.compile(forward, backend="eager", dynamic=False)
        for width in range(1, number + 1):
            compiled(torch.nn.Linear(width, 2), torch.zeros(1, width))

    with equality.room_to_compile(4):
        compile_all(4 * 4)
    with equality.room_to_compile(1), pytest.raises(FailOnRecompileLimitHit):
        compile_all(before + 1)
    assert config.recompile_limit == before
    torch.compiler.reset()

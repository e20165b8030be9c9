"""Peers in the speed table: which checks they pass, what is counted of them, what is left out and said."""

import io
import json

import pytest
import torch
from rich.console import Console

from unimatrix import UserError, build
from unimatrix.bench import equality, throughput
from unimatrix.bench.plot import draw_throughput, plot_throughput
from unimatrix.bench.terminal import throughput_tables
from unimatrix.models import ModelConfig, Preset, peer_presets, preset_config
from unimatrix.models.peer_presets import PEER_PRESETS

SHORT = {"lengths": (4,), "passes": ("forward",), "seconds": 0.01}


def small(*, max_positions: int | None = 128) -> ModelConfig:
    config = preset_config("transformer", max_positions=max_positions, depth=1)
    assert isinstance(config, ModelConfig)
    return config


@pytest.fixture
def peer(monkeypatch) -> str:
    """The name of a small model of ours in a peer's place: what is tested is how a peer is treated."""
    monkeypatch.setitem(PEER_PRESETS, "small", Preset(small(), "A small one.", "Tests."))
    return "small"


@pytest.fixture
def as_it_is(monkeypatch) -> None:
    """torch.compile returns the model: no test waits for a compiler."""
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: model)
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    monkeypatch.setenv("CXX", "c++")


def on_terminal(result: dict) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(throughput_tables(result))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_peer_takes_its_turns_beside_ours(tmp_path, peer):
    said: list[str] = []
    models, lengths = (peer, "recurrent-ffn", peer), (4, 6)
    path = throughput.run(
        tmp_path, models=models, lengths=lengths, modes=("eager",), seconds=0.01, say=said.append
    )
    result = json.loads(path.read_text())
    rows = {(row["model"], row["length"], row["what"]): row for row in result["rows"]}
    assert len(rows) == len(result["rows"]) == 3 * 2 * 2
    assert {name for name, _, _ in rows} == {"transformer", "recurrent-ffn", peer}
    assert all((row["ceiling_share"] is None) == (row["model"] == peer) for row in result["rows"])
    assert result["equality"].keys() == {"transformer", "recurrent-ffn"}
    assert result["peer_equality"][peer] <= equality.EQUALITY_TOLERANCE
    for row in result["rows"]:
        assert set(row["backends"].values()) == ({"compiled"} if row["model"] == "recurrent-ffn" else set())
    assert result["left_out"] == []
    assert {(r["model"], r["length"], r["what"]) for r in result["ratios"]} == {
        key for key in rows if key[0] != "transformer"
    }
    assert {(r["model"], r["peer"]) for r in result["peer_ratios"]} == {
        ("transformer", peer),
        ("recurrent-ffn", peer),
    }
    for ratio in result["peer_ratios"]:
        at = ratio["length"], ratio["what"]
        over = rows[(ratio["model"], *at)]["tokens_per_s"] / rows[(peer, *at)]["tokens_per_s"]
        assert ratio["ratio"] == pytest.approx(over)
    assert "small: one token at a time against the whole" in said[2]
    assert "small" in said[-1].split("recurrent-ffn")[0]  # the Transformer over the peer
    assert "(eager, - of the products' ceiling)" in said[-1].split("recurrent-ffn")[1]
    assert f"{peer} (peer)" in (tmp_path / "throughput.svg").read_text()


def test_a_peer_that_torch_compile_cannot_manage_is_timed_in_eager_mode(tmp_path, peer, monkeypatch):
    from torch._dynamo.exc import Unsupported

    def compile_model(model, dynamic):
        def refuse(*arguments):
            raise Unsupported("a cache\nthat is written into")

        return refuse if model.config == small(max_positions=4) else model

    monkeypatch.setattr(torch, "compile", compile_model)
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    monkeypatch.setenv("CXX", "c++")
    said: list[str] = []
    path = throughput.run(tmp_path, models=(peer,), modes=("compile",), say=said.append, **SHORT)
    result = json.loads(path.read_text())
    assert [(row["model"], row["mode"]) for row in result["rows"]] == [
        ("transformer", "compile"),
        (peer, "eager"),
    ]
    why = "torch.compile failed, Unsupported: a cache that is written into"
    assert result["left_out"] == [
        {"model": peer, "length": 4, "what": "forward", "mode": "compile", "why": why}
    ]
    assert [line for line in said if why in line] == [f"T     4  forward   small in eager mode alone: {why}"]


def test_a_peer_that_differs_under_torch_compile_is_timed_in_eager_mode(peer):
    model = build(peer, max_positions=4)
    ids = torch.zeros(2, 5, dtype=torch.int64)
    why = equality.compiled_peer_problem(lambda x: (model(x)[0] * 1.01, None), model, ids)
    assert why == "it differs from eager mode by 1.0e-02 of the largest logit"
    assert equality.compiled_peer_problem(model, model, ids) is None


@pytest.mark.parametrize("what", ["forward", "training"])
def test_a_peer_that_compiles_is_timed_in_both_modes(tmp_path, peer, as_it_is, what):
    path = throughput.run(tmp_path, models=(peer,), **(SHORT | {"passes": (what,)}), say=lambda line: None)
    result = json.loads(path.read_text())
    assert [row["mode"] for row in result["rows"] if row["model"] == peer] == ["compile", "eager"]
    assert result["left_out"] == []


def test_an_error_that_is_not_the_compilers_is_not_hidden(tmp_path, peer, as_it_is, monkeypatch):
    def wrong(*arguments):
        raise ValueError("a mistake in the check itself")

    monkeypatch.setattr(throughput, "compiled_peer_problem", wrong)
    with pytest.raises(ValueError, match="a mistake"):
        throughput.run(tmp_path, models=(peer,), say=lambda line: None, **SHORT)


def test_a_peer_whose_state_is_wrong_is_not_timed(tmp_path, peer, monkeypatch):
    forgetful = build(peer, max_positions=None)
    forget = forgetful.forward
    monkeypatch.setattr(forgetful, "forward", lambda ids, state=None: (forget(ids)[0], None))
    monkeypatch.setattr(equality, "build", lambda name, **overrides: forgetful)
    with pytest.raises(UserError, match=r"small: one token at a time differs from the whole by .* nothing"):
        throughput.run(tmp_path, models=(peer,), modes=("eager",), say=lambda line: None, **SHORT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", peer_presets())
def test_every_peer_gives_the_same_logits_one_token_at_a_time(name):
    assert equality.check_steps(name) < equality.EQUALITY_TOLERANCE


def made(model: str, length: int, ratio: float, **more: str) -> dict:
    return {"model": model, "length": length, "what": "forward", "ratio": ratio, **more}


def test_the_table_has_a_part_for_the_transformer_and_one_for_each_peer():
    result = {
        "ratios": [made("recurrent-ffn", 64, 0.91), made("recurrent-ffn", 8192, 1.5)],
        "peer_ratios": [made("transformer", 64, 7.25, peer="mamba2")],
    }
    shown = on_terminal(result)
    lines = [line.split() for line in shown.splitlines()]
    assert ["model", "T", "64", "T", "8,192"] in lines
    assert ["recurrent-ffn", "0.91x", "1.50x"] in lines
    assert ["transformer", "7.25x"] in lines
    assert "over transformer's" in shown
    assert "over mamba2's" in shown


def test_no_ratio_of_several_repeats_is_cut_in_eighty_columns():
    """Where the lengths do not fit side by side there are more tables, each with the models' names."""
    lengths, models = (64, 128, 256, 512, 2048, 8192), ("unimatrix-core, loop", "recurrent-ffn")
    ranges = {"ratio_low": 1.2, "ratio_high": 11.3}
    ratios = [made(model, length, 1.25) | ranges for length in lengths for model in models]
    lines = on_terminal({"ratios": ratios}).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.count("1.25x (1.20 to 11.30)") for line in lines) == len(ratios)
    assert sum("unimatrix-core, loop" in line for line in lines) > 1


def test_results_from_before_peers_still_show_and_plot(tmp_path):
    row = {"length": 4, "what": "forward", "mode": "eager"}
    result = {
        "machine": "a machine",
        "threads": 1,
        "versions": {"torch": "2"},
        "equality": {"transformer": 0.0, "unimatrix-core": 0.0},
        "rows": [
            row | {"model": "transformer", "tokens_per_s": 10.0},
            row | {"model": "unimatrix-core", "tokens_per_s": 30.0},
        ],
        "ratios": [made("unimatrix-core", 4, 3.0)],
    }
    plot_throughput(result, tmp_path)
    svg = (tmp_path / "throughput.svg").read_text()
    assert "unimatrix-core over transformer" in svg
    assert ">3x<" in svg  # the ratio, above the highest point
    assert "3.00x" in on_terminal(result)
    # a title is as wide as its table
    assert "each at the better of eager and torch.compile" in " ".join(on_terminal(result).split())
    assert "each in eager mode" in " ".join(on_terminal(result | {"modes": ["eager"]}).split())
    assert "peer" not in on_terminal(result)


def test_more_models_than_colours_get_a_row_each():
    models = [f"model-{number}" for number in range(9)]
    row = {"length": 64, "what": "forward", "mode": "eager"}
    result = {
        "rows": [
            row | {"model": model, "tokens_per_s": 1000.0 + place} for place, model in enumerate(models)
        ],
        "ratios": [],
        "peer_equality": {models[-1]: 0.0},
        "machine": "a machine",
        "threads": 1,
        "versions": {"torch": "2"},
    }
    drawing = draw_throughput(result).to_dict()
    encoding = drawing["spec"]["encoding"]
    points = next(iter(drawing["datasets"].values()))
    assert (encoding["y"]["field"], encoding["x"]["field"]) == ("model", "speed")
    assert encoding["y"]["sort"] == [*models[:-1], f"{models[-1]} (peer)"]
    assert {point["model"]: point["speed"] for point in points} == {
        name: 1000.0 + place for place, name in enumerate(encoding["y"]["sort"])
    }
    (tick, *_) = encoding["x"]["axis"]["values"]
    assert tick == 1000.0

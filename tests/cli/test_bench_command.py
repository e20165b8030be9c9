"""`unimatrix bench`: a measurement's table, made of the file that it wrote."""

import json
from dataclasses import replace

import torch

from unimatrix.cli.bench import MEASUREMENTS


def test_throughput_ends_with_a_table_of_its_ratios(call, tmp_path, monkeypatch) -> None:
    taken = {}

    def measure(out, **settings):
        taken.update(settings)
        ratio = {"model": "recurrent-ffn", "length": 64, "what": "forward", "ratio": 0.95}
        result = {"ratios": [ratio], "peer_ratios": [ratio | {"peer": "mamba2", "ratio": 7.5}]}
        path = out / "throughput.json"
        path.write_text(json.dumps(result))
        return path

    monkeypatch.setitem(MEASUREMENTS, "throughput", replace(MEASUREMENTS["throughput"], measure=measure))
    code, out, _ = call("bench", "throughput", "--models", "recurrent-ffn", "mamba2", "--out", str(tmp_path))
    assert code == 0
    assert taken["models"] == ("recurrent-ffn", "mamba2")
    assert [line.split()[-1] for line in out.splitlines() if "recurrent-ffn" in line] == ["0.95x", "7.50x"]
    assert f"Results: {tmp_path / 'throughput.json'}" in out.replace("\n", "")


def test_the_search_is_asked_for_by_its_budget(call, refused, tmp_path, monkeypatch) -> None:
    taken = {}

    def measure(out, **settings):
        taken.update(settings, threads=torch.get_num_threads())
        return out / "fair_fight.json"

    monkeypatch.setitem(MEASUREMENTS, "search", replace(MEASUREMENTS["search"], measure=measure))
    words = ("--data", "sea.txt", "--drawn", "3", "--threads", "1", "--out", tmp_path)
    code, out, _ = call("bench", "search", *words)
    assert code == 0
    asked = {"data": "sea.txt", "drawn": 3, "near": 8, "seconds": 30.0, "retime": False}
    assert taken == asked | {"threads": 1}
    assert "Results: " in out
    for name in ("drawn", "near", "seconds"):
        complaint = refused("bench", "search", f"--{name}", "0", "--out", tmp_path / "none")
        assert f"{name}: expected more than 0" in complaint
    assert not (tmp_path / "none").exists()

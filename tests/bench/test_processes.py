"""Measurements in fresh processes, several of them, and what they say together."""

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from unimatrix import UserError
from unimatrix.bench import processes, throughput


def who(number: int) -> tuple[int, int, int]:
    return number, os.getpid(), torch.get_num_threads()


def dies() -> None:
    os._exit(1)


def lasts(mark: Path) -> None:
    mark.touch()
    time.sleep(60)


def test_every_call_has_a_process_of_its_own():
    answers = processes.in_fresh_processes(who, [{"number": 1}, {"number": 2}])
    assert [number for number, _, _ in answers] == [1, 2]
    assert len({os.getpid(), *(pid for _, pid, _ in answers)}) == 3
    assert {threads for _, _, threads in answers} == {torch.get_num_threads()}


def test_a_process_that_is_killed_is_said_to_be():
    with pytest.raises(UserError, match="a process of a measurement was killed"):
        processes.in_fresh_processes(dies, [{}])


@pytest.mark.usefixtures("pythons_own_handler")
def test_ctrl_c_ends_the_call_and_calls_no_further_one(tmp_path, capfd):
    def interrupt() -> None:
        while not any(tmp_path.iterdir()):
            time.sleep(0.02)
        for pid in (*(child.pid for child in multiprocessing.active_children()), os.getpid()):
            os.kill(pid, signal.SIGINT)  # to all, as a terminal does
        sent.append(time.monotonic())

    sent: list[float] = []
    thread = threading.Thread(target=interrupt)
    thread.start()
    calls = [{"mark": tmp_path / str(number)} for number in range(3)]
    with pytest.raises(KeyboardInterrupt):
        processes.in_fresh_processes(lasts, calls)
    assert time.monotonic() - sent[0] < 20
    thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    assert not multiprocessing.active_children()
    assert capfd.readouterr().err == ""


def test_repeats_give_medians_and_all_their_numbers():
    repeats = [[{"model": "a", "ratio": value, "calls": 3}] for value in (3.0, 1.0, 2.5)]
    assert processes.over_repeats(repeats, "ratio") == [
        {
            "model": "a",
            "ratio": 2.5,
            "ratio_low": 1.0,
            "ratio_high": 3.0,
            "ratio_repeats": [3.0, 1.0, 2.5],
            "calls": 3,
        }
    ]


def test_repeats_are_measured_in_fresh_processes_and_written_together(tmp_path, monkeypatch):
    calls = []

    def at_once(function, arguments):
        calls.extend(arguments)
        return [function(**each) for each in arguments]

    monkeypatch.setattr(processes, "in_fresh_processes", at_once)
    said: list[str] = []
    path = throughput.run(
        tmp_path,
        lengths=(4,),
        passes=("forward",),
        modes=("eager",),
        repeats=2,
        seconds=0.01,
        say=said.append,
    )
    assert said == ["1 of 2 repeats measured", "2 of 2 repeats measured"]
    assert len(calls) == 2
    result = json.loads(path.read_text())
    for key, measured in throughput.MEASURED.items():
        for row in result[key]:
            low, high = sorted(row[f"{measured}_repeats"])
            assert (row[f"{measured}_low"], row[f"{measured}_high"]) == (low, high)
            assert row[measured] == pytest.approx((low + high) / 2)
    assert len(result["rows"]) == 2
    assert result["peer_ratios"] == []

from __future__ import annotations

import time

import pytest
import torch

from benchmarks.performance.model import feeding as bench
from benchmarks.performance.section import Conditions
from etrm.data import Episodes, Sample
from tests.training.runs import wait_for_no_worker


def test_waiting_is_the_time_that_drawing_takes() -> None:
    def slow(episodes: Episodes, bucket: int, index: int) -> Sample:
        time.sleep(0.02)
        return None  # type: ignore[return-value]

    waiting = bench.Waiting(slow)
    for index in range(3):
        waiting(None, 0, index)  # type: ignore[arg-type]
    assert waiting.samples == 3
    assert waiting.seconds >= 0.06


@pytest.mark.slow
def test_every_number_of_workers_is_timed_on_the_same_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {
        "data": {"max_side": 4},
        "model": {"halt": {"max_steps": 1}, "hidden_size": 16},
        "train": {"batch_size": 4},
    }
    monkeypatch.setattr(bench, "LOADS", {"tiny": tiny})
    monkeypatch.setattr(bench, "WORKERS", (0, 1))
    (table,) = bench.measure_feeding(Conditions(torch.device("cpu"), repetitions=1)).tables
    columns = dict(zip(table.header, zip(*table.rows, strict=True), strict=True))
    assert columns["workers"] == ("0", "1")
    assert columns["new samples per step"] == ("4.0 of 4", "4.0 of 4")  # one ACT step: every row is new
    assert columns["x no workers"][0] == "1 [1, 1]"
    assert all(0 < float(cell.split()[0]) < 100 for cell in columns["waiting, %"])
    wait_for_no_worker()

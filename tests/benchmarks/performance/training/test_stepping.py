from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.cases import GRAPHS
from benchmarks.performance.model.throughput import ATTENTION
from benchmarks.performance.training import stepping
from benchmarks.performance.training.runs import PAPER, SMALL, make_run
from etrm.config import with_settings
from etrm.training.trainer import Trainer

CPU = torch.device("cpu")


def test_whole_rounds_are_timed_and_no_step_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bool] = []
    advance = Trainer.advance

    def noted(trainer: Trainer, read_now: bool = True, **named: bool) -> object:
        read.append(named.get("read", read_now))
        return advance(trainer, read=read[-1])

    monkeypatch.setattr(Trainer, "advance", noted)
    found = stepping.measure_steps(make_run(SMALL, CPU), seconds=0.01)
    assert read == [False] * (len(read) - 1) + [True]  # the last one, after all timing, shows that it trained
    assert found["steps"] % found["buckets"] == 0
    assert found["rows_per_second"] == pytest.approx(1e3 * found["rows"] / found["ms_per_step"])
    assert found["ms_per_step"] == pytest.approx(
        sum(found["ms_per_step_by_round"]) / len(found["ms_per_step_by_round"]), abs=0.01
    )
    assert 0 < found["loader_ms"] < found["ms_per_step"]
    assert found["graphs_during"] == 0  # ``graphs`` counts those of other tests in this process too
    assert 0 < found["loss"] < 10


def test_without_a_gpu_cases_of_cuda_graphs_run_without_them() -> None:
    assert not make_run(SMALL, CPU, **GRAPHS).train.cuda_graphs
    assert make_run(SMALL, torch.device("cuda"), **GRAPHS).train.cuda_graphs


def test_operations_are_counted_in_a_step_of_the_trainer() -> None:
    config = make_run(PAPER, CPU)
    few = stepping.measure_steps(config, seconds=0.01)["tflop"]
    deep = with_settings(config, model={"L_cycles": 3})
    assert few < stepping.measure_steps(deep, seconds=0.01)["tflop"] < 3 * few
    assert any("flash" in str(operation) for operation in ATTENTION)

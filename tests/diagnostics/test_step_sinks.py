"""TensorBoard and Weights & Biases get every known number of a step, under its module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from diagnostics import Monitor, StepLog, TensorBoardLog, WandbLog
from diagnostics.callback_loop import LoopMonitor
from tests.diagnostics.refusals import refused


def record_steps(count: int = 2) -> Monitor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    monitor = Monitor(model, torch.optim.SGD(model.parameters(), 0.1))
    for _ in range(count):
        with monitor.step(samples=6):
            loss = model(torch.randn(6, 4)).square().mean()
            monitor.loss(loss)
            loss.backward()
    return monitor


def test_a_full_record_is_refused_in_favour_of_its_scalars(tmp_path: Path) -> None:
    record: Any = record_steps(1).last
    with StepLog(tmp_path / "steps.jsonl") as log:
        for sink in (log, TensorBoardLog(None), WandbLog(Run())):
            with refused(TypeError, "log.not-scalars", got="StepRecord"):
                sink.append(record)


class Run:
    """What a run of Weights & Biases offers."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []
        self.axes: dict[str, str] = {}

    def define_metric(self, name: str, step_metric: str) -> None:
        self.axes[name] = step_metric

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)


def test_a_run_has_an_axis_of_its_own_and_known_numbers_alone() -> None:
    monitor, run = record_steps(), Run()
    log = WandbLog(run)
    for record in monitor.history:
        log.append(record)
    assert run.axes == {"diagnostics/*": "diagnostics/step"}
    assert [values["diagnostics/step"] for values in run.logged] == [0, 1]
    assert run.logged[1]["diagnostics/0/coverage"] == 1.0
    assert run.logged[1]["diagnostics/loss"] == pytest.approx(monitor.history[-1].losses[""])
    assert "diagnostics/0/grad_norm_post_clip" not in run.logged[1]  # no optimiser stepped


def test_a_writer_of_tensorboard_gets_the_same(tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monitor = record_steps()
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        log = TensorBoardLog(writer, prefix="steps")
        for record in monitor.history:
            log.append(record)
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    written = [(event.step, event.value) for event in events.Scalars("steps/1/gradient_max")]
    wanted = [(record.step, record.modules["1"]["gradient_max"]) for record in monitor.history]
    assert written == [(step, pytest.approx(value)) for step, value in wanted]


def test_a_callback_takes_a_sink_where_it_takes_a_file() -> None:
    run = Run()
    loop = LoopMonitor(log=WandbLog(run))
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    loop.begin(model, [])
    loop.open(6)
    model(torch.randn(6, 4)).sum().backward()
    loop.close()
    loop.end()
    assert len(run.logged) == 1

from __future__ import annotations

import pytest
import torch

from benchmarks.performance.section import Conditions
from benchmarks.performance.timing import Timing
from benchmarks.performance.toolkit import watching as bench
from benchmarks.performance.toolkit.subjects import toy

CPU = torch.device("cpu")
TINY = toy(4, 6)


def test_a_watched_step_is_a_step_bit_for_bit() -> None:
    plain, seen = TINY.make(CPU), TINY.make(CPU)
    monitor = bench.monitor(seen, seen.boundaries)
    contenders = [bench.watch_steps("plain", plain, None), bench.watch_steps("seen", seen, monitor)]
    for _ in range(5):
        for contender in contenders:
            contender.prepare()()
    assert [step.step for step in monitor.history] == [0, 1, 2, 3, 4]
    assert monitor.last.samples == 6
    assert set(monitor.last.modules) == {"encoder", "core", "decoder"}
    assert monitor.last.modules["core"].calls_total == 4
    start = TINY.make(CPU).model.state_dict()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, seen.model.state_dict()[name])
        assert not torch.equal(value, start[name])


def test_leaves_hold_no_other_modules() -> None:
    assert TINY.make(CPU).leaves == ["encoder.0", "encoder.1", "encoder.2", "core.0", "core.1", "decoder"]


def test_an_idle_monitor_records_its_first_step_alone() -> None:
    training = TINY.make(CPU)
    monitor = bench.monitor(training, training.leaves, every=bench.IDLE)
    contender = bench.watch_steps("idle", training, monitor)
    for _ in range(4):
        contender.prepare()()
    assert [step.step for step in monitor.history] == [0]


def test_the_average_is_of_one_recorded_step_and_the_others_within_a_turn() -> None:
    recorded, between = Timing("", 1, [8.0, 30.0]), Timing("", 1, [4.0, 10.0])
    plain = Timing("", 1, [2.0, 10.0])
    assert bench.on_average(recorded, between, plain, 4) == [(8 + 3 * 4) / 4 / 2, (30 + 3 * 10) / 4 / 10]


def test_a_row_for_each_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SUBJECTS", (TINY, toy(5, 6)))
    monkeypatch.setattr(bench, "memory_over_steps", lambda: "flat")
    section = bench.measure_watching(Conditions(CPU, 2))
    (table,) = section.tables
    assert [row[0] for row in table.rows] == ["toy, width 4, batch 6", "toy, width 5, batch 6"]
    assert all(len(row) == len(table.header) for row in table.rows)
    assert section.paragraphs[-1] == "flat"


def test_memory_is_read_after_the_steps_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0

    class Counted:
        def prepare(self) -> object:
            def work() -> None:
                nonlocal steps
                steps += 1

            return work

    monkeypatch.setattr(bench, "watch_steps", lambda *given: Counted())
    monkeypatch.setattr(bench, "read_resident", lambda field: steps)
    assert bench.measure_held([3, 5]) == [3, 5]

from __future__ import annotations

import pytest
import torch

from benchmarks.performance import timing as bench
from benchmarks.performance.timing import Contender, Timing, Work

CPU = torch.device("cpu")


def test_contenders_take_turns_after_one_untimed_turn_and_prepare_each_time() -> None:
    events: list[str] = []

    def contender(name: str) -> Contender:
        def prepare() -> Work:
            events.append(f"prepare {name}")
            return lambda: events.append(f"run {name}")

        return Contender(name, prepare, units=4)

    timings = bench.take_turns([contender("a"), contender("b")], 3, CPU)
    assert events == ["prepare a", "run a", "prepare b", "run b"] * 4
    assert [(t.name, t.units, len(t.seconds), len(t.cpu)) for t in timings] == [
        ("a", 4, 3, 3),
        ("b", 4, 3, 3),
    ]


def test_a_clock_that_stands_still_makes_ratios_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.time, "perf_counter", lambda: 5.0)
    monkeypatch.setattr(bench.time, "process_time", lambda: 5.0)
    (timing,) = bench.take_turns([Contender("idle", lambda: lambda: None)], 2, CPU)
    assert bench.compute_ratios(timing.seconds, timing.seconds) == [1.0, 1.0]
    assert bench.compute_ratios(timing.cpu, timing.cpu) == [1.0, 1.0]


def test_times_are_per_unit_and_leave_the_preparation_out(monkeypatch: object) -> None:
    clock = [0.0]

    def prepare() -> Work:
        clock[0] += 100.0

        def work() -> None:
            clock[0] += 6.0

        return work

    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])  # type: ignore[attr-defined]
    monkeypatch.setattr(bench.time, "process_time", lambda: 2 * clock[0])  # type: ignore[attr-defined]
    (timing,) = bench.take_turns([Contender("a", prepare, units=3)], 2, CPU)
    assert (timing.seconds, timing.cpu) == ([2.0, 2.0], [4.0, 4.0])


def test_ratios_are_taken_within_a_turn() -> None:
    slow, middle = Timing("slow", 1, [10.0, 30.0, 20.0]), Timing("middle", 1, [5.0, 15.0, 5.0])
    fast = Timing("fast", 8, [1.0, 3.0, 1.0])
    assert bench.compute_ratios(slow.seconds, fast.seconds) == [10, 10, 20]
    assert bench.format_columns([slow, middle, fast]) == [
        ("20 [15, 25]", "1", "", "3 x 1"),
        ("5 [5, 10]", "2 [2, 3]", "2 [2, 3]", "3 x 1"),
        ("1 [1, 2]", "10 [10, 15]", "5 [5, 5]", "3 x 8"),
    ]
    assert len(bench.HEADER) == 4

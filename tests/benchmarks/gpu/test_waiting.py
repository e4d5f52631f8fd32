from __future__ import annotations

import warnings
from collections import Counter

import pytest
import torch

from benchmarks.gpu import waiting

CPU = torch.device("cpu")


def test_every_arm_has_read_and_unread_steps_as_the_trainer_has(monkeypatch: pytest.MonkeyPatch) -> None:
    arms = {name: waiting.ARMS[name] for name in ("monitor 1 of 5", "off, all read")}
    monkeypatch.setattr(waiting, "ARMS", arms)
    found = waiting.measure_waits(CPU, rounds=1)
    assert [found["monitor 1 of 5"][kind]["steps"] for kind in ("read", "unread")] == [1, 4]
    assert [found["off, all read"][kind]["steps"] for kind in ("read", "unread")] == [5, 0]


def test_a_wait_is_counted_at_the_line_of_this_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr("torch.cuda.set_sync_debug_mode", modes.append)
    places = Counter[str]()
    with waiting.noted_waits(torch.device("cuda"), places):
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    (place,) = (name for name in places if not name.startswith("warning: something else"))
    assert place.startswith("tests/benchmarks/gpu/test_waiting.py:")
    assert modes == ["warn", "default"]


def test_the_first_arm_is_the_base_of_the_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    arms = {name: waiting.ARMS[name] for name in ("monitor off", "monitor 1 of 1")}
    monkeypatch.setattr(waiting, "ARMS", arms)
    found = waiting.measure_monitor(CPU, rows=2, turns=1)
    assert found["monitor off"]["ratio"] == [1, 1, 1]
    assert found["monitor 1 of 1"]["ms_per_step"] > 0

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from benchmarks.performance.section import Conditions
from benchmarks.performance.toolkit import peers as bench
from benchmarks.performance.toolkit.subjects import Training, toy

CPU = torch.device("cpu")
TINY = toy(4, 6)


def test_what_is_not_installed_is_named_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    @contextmanager
    def fake(training: Training) -> Iterator[bench.Step]:
        events.append("in")
        yield lambda number: events.append(str(number))
        events.append("out")

    monkeypatch.setattr(bench, "PEERS", {"here": ("json", fake), "gone": ("no_such_module", fake)})
    monkeypatch.setattr(bench, "SUBJECTS", (TINY,))
    section = bench.compare_peers(Conditions(CPU, 2))
    (table,) = section.tables
    assert table.header[6:] == ("here", "turns")
    assert "Not installed, so left out: gone (" in section.paragraphs[0]
    assert events == ["in", "0", "1", "2", "out"]


@pytest.mark.filterwarnings("default")  # they are not ours
@pytest.mark.parametrize("name", bench.PEERS)
def test_a_peer_watches_a_step_that_trains(name: str) -> None:
    module, enter = bench.PEERS[name]
    pytest.importorskip(module, reason="the extra `peers` is not installed")
    training = TINY.make(CPU)
    before = [parameter.detach().clone() for parameter in training.model.parameters()]
    with enter(training) as step:
        for number in range(3):
            step(number)
    assert not any(map(torch.equal, before, training.model.parameters()))

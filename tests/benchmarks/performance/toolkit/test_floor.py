"""The least code measures what a monitor of the same training records."""

from __future__ import annotations

import pytest
import torch

from benchmarks.performance.toolkit.floor import floor
from benchmarks.performance.toolkit.subjects import toy
from diagnostics import Absent, Monitor


@pytest.mark.parametrize("samples", [6, 100])
def test_it_computes_the_numbers_of_a_monitor(samples: int) -> None:
    plain, watched = (toy(4, samples).make(torch.device("cpu")) for _ in range(2))
    monitor = Monitor(watched.model, watched.optimizer, watch=watched.boundaries)
    with floor(plain, plain.boundaries) as least:
        for number in range(3):
            least.step(number)
            with monitor.step(samples=samples):
                watched.step(number)
    *sums, norms, counts, applied, updates, _ = least.numbers
    parameters = list(monitor.last.parameters.values())
    assert norms == [each.reach.norm for each in parameters]
    assert [count / each.numel for count, each in zip(counts, parameters, strict=True)] == [
        each.reach.nonzero for each in parameters
    ]
    assert applied == [each.place.norm for each in parameters if not isinstance(each.place, Absent)]
    assert updates == [each.update_norm for each in parameters]
    outputs = [monitor.last.modules[name].output for name in plain.boundaries]
    seen = len(range(0, samples, -(-samples // 64)))
    widths = (4, 4, 3)
    for found, (_, _, total), width in zip(outputs, sums, widths, strict=True):
        assert not isinstance(found, Absent)
        assert found.mean == pytest.approx(total / (seen * width))
    calls = [call for name in reversed(plain.boundaries) for call in reversed(monitor.calls(name))]
    for call, rows in zip(calls, least.rows, strict=True):
        assert isinstance(call.row_gradients, torch.Tensor)
        assert torch.equal(call.row_gradients, rows)

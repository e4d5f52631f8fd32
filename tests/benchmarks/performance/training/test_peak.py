from __future__ import annotations

import pytest
import torch

from benchmarks.performance.training import peak


def test_a_rate_is_operations_over_the_median_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "_median", lambda work, turns, device: work() is not None and 0.5)
    found = peak.measure_peaks(torch.device("cpu"), side=8)
    assert found["bfloat16"] == found["tf32"] == found["float32"] == pytest.approx(4 * 8**3 / 1e12)
    assert found["copy"] == pytest.approx(
        4 * 4 * 8 * 32 / 1e12
    )  # float32, read and written, in half a second

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from benchmarks.performance.model import growth as bench
from benchmarks.performance.model import memory
from benchmarks.performance.timing import Timing

CPU = torch.device("cpu")
TINY = bench.Point(width=16, side=3, demos=2, rows=3)


def test_a_point_is_trained_on_full_grids_of_its_size() -> None:
    batch = TINY.batch(CPU)
    assert batch.inputs.shape == (3, 9)
    assert batch.demos.tokens.shape == (6, 18)
    assert batch.demos.owner.tolist() == [0, 0, 1, 1, 2, 2]
    assert batch.positions[0].tolist() == [0, 1, 2, 30, 31, 32, 60, 61, 62]
    assert (batch.demos.positions[0, 9:] - batch.demos.positions[0, :9]).unique().tolist() == [900]
    step = TINY.step(CPU)
    before = [p.clone() for p in step.model.parameters()]
    step(batch)
    assert any(not torch.equal(a, b) for a, b in zip(before, step.model.parameters(), strict=True))


def test_every_axis_holds_the_base_and_changes_one_thing() -> None:
    for axis in bench.AXES:
        points = bench.along(axis)
        assert bench.BASE in points
        assert len(points) == len(bench.AXES[axis])
        for name in bench.AXES:
            assert (len({getattr(point, name) for point in points}) > 1) == (name == axis)


@pytest.mark.slow
def test_memory_of_a_process_is_its_own_and_sees_an_allocation() -> None:
    code = (
        "from benchmarks.performance.model.memory import read_resident; import numpy as np\n"
        "before = read_resident('VmRSS'); x = np.ones(50 * 2**17); del x\n"
        "print(read_resident('VmHWM') - before, read_resident('VmRSS') - before)"
    )
    ballast = np.ones(100 * 2**17)  # 100 MiB that the other process must not see
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    highest, now = (int(word) / 2**20 for word in done.stdout.split())
    assert len(ballast)
    assert 45 < highest < 80
    assert now < 25


@pytest.mark.slow
def test_a_larger_batch_takes_more_memory() -> None:
    small, large = bench.Point(width=32, side=10, rows=1), bench.Point(width=32, side=10, rows=32)
    assert bench.peak_memory(large, CPU) > 2 * bench.peak_memory(small, CPU) > 0
    assert memory.STATUS.exists()


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_an_exponent_is_that_of_the_last_two_points(power: float) -> None:
    values = (1, 2, 5)
    assert bench.fit_exponent(values, [7.0, *(3 * value**power for value in values[1:])]) == pytest.approx(
        power
    )


def test_the_figure_is_the_same_each_time() -> None:
    points = {point for axis in bench.AXES for point in bench.along(axis)}
    timings = {point: Timing(str(point), 1, [0.1 * point.rows, 0.2 * point.rows]) for point in points}
    memory_of = {point: 1e6 * point.rows for point in points}
    first = bench.draw(timings, memory_of)
    assert first == bench.draw(timings, memory_of)
    assert imread(io.BytesIO(first)).shape[:2] == (702, 1430)
    assert "batch size 1.0 and 1.0" in bench.fit_growth_rates(timings, memory_of)

"""What logged steps show about the dynamics, on invented logs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etrm.config import load, with_settings
from etrm.investigation.comparison import dynamics
from etrm.investigation.evidence.table import Direction
from etrm.investigation.records import NotMeasured
from etrm.training.optim import schedule


def log(**columns: list[Any]) -> list[dict[str, Any]]:
    steps = max(map(len, columns.values()))
    return [{"step": i + 1} | {key: column[i] for key, column in columns.items()} for i in range(steps)]


@pytest.mark.parametrize(("warmup", "share"), [(0, 0.0), (1, 0.0), (11, 0.1), (50, 0.49), (100, 0.99)])
def test_the_share_of_warm_up_is_read_from_the_factors(warmup: int, share: float) -> None:
    train = with_settings(load("small"), train={"steps": 100, "warmup_steps": warmup}).train
    assert dynamics.measure_warmup_share(log(lr_factor=[schedule(i, train) for i in range(100)])) == share


def test_a_peak_that_is_never_reached_is_all_warm_up() -> None:
    assert dynamics.measure_warmup_share(log(lr_factor=[0.01 * i for i in range(50)])) == 1.0


def test_norms_are_the_logged_one_or_that_of_the_modules() -> None:
    clipped = log(grad_norm_before_clip=[2.0, 3.0])
    assert dynamics.read_norms(clipped) == [(1, 2.0), (2, 3.0)]
    unclipped = log(**{"encoder.grad_norm_pre_clip": [3.0, None], "core.grad_norm_pre_clip": [4.0, 1.0]})
    assert dynamics.read_norms(unclipped) == [(1, 5.0), (2, 1.0)]
    assert dynamics.read_norms(log(loss=[1.0])) == []


def test_a_spike_is_ten_times_the_median_of_the_steps_before() -> None:
    norms = [1.0] * 10 + [10.5] + [1.0] * 5 + [9.5]
    assert dynamics.find_spikes(log(grad_norm_before_clip=norms)) == [11]


def test_the_median_leaves_the_step_itself_out() -> None:
    assert dynamics.find_spikes(log(grad_norm_before_clip=[1.0] * 3 + [5.0] * 3 + [35.0])) == [
        7
    ]  # 10 x 3, not 10 x 5


def test_the_median_is_a_running_one() -> None:
    assert dynamics.find_spikes(log(grad_norm_before_clip=[100.0] * 30 + [1.0] * 25 + [15.0])) == [56]


def test_the_first_steps_are_not_spikes_because_there_is_nothing_to_compare() -> None:
    assert dynamics.find_spikes(log(grad_norm_before_clip=[0.01, 50.0, 1.0, 1.0])) == []


@given(st.lists(st.floats(0.1, 1000), min_size=1, max_size=60))
def test_spikes_against_a_plain_search(norms: list[float]) -> None:
    wanted = []
    for i, norm in enumerate(norms):
        window = sorted(norms[max(0, i - 25) : i])
        middle = len(window) // 2
        if len(window) >= 5:
            median = window[middle] if len(window) % 2 else (window[middle - 1] + window[middle]) / 2
            if norm > 10 * median:
                wanted.append(i + 1)
    assert dynamics.find_spikes(log(grad_norm_before_clip=norms)) == wanted


def test_lost_accuracy_is_from_the_best_ten_steps() -> None:
    assert dynamics.measure_lost_accuracy(
        log(accuracy_all=[0.2] * 10 + [0.8] * 10 + [0.5] * 10)
    ) == pytest.approx(0.3)
    assert dynamics.measure_lost_accuracy(log(accuracy_all=[i / 30 for i in range(30)])) == 0.0
    assert dynamics.measure_lost_accuracy(log(accuracy_all=[0.5] * 9)) is None


def test_looks_begin_with_the_random_start() -> None:
    metrics = log(**{"start.share": [0.6, None, None], "probe.share": [None, 0.4, 0.3]})
    assert dynamics.read_probe(metrics, "share") == [(0, 0.6), (2, 0.4), (3, 0.3)]


def test_rows_take_the_worst_seed_and_decide_nothing() -> None:
    calm = log(lr_factor=[1.0] * 12, accuracy_all=[0.5] * 12, grad_norm_before_clip=[1.0] * 12)
    wild = log(
        lr_factor=[0.1] * 12,
        accuracy_all=[0.9] * 10 + [0.0] * 2,
        grad_norm_before_clip=[1.0] * 11 + [99.0],
    )
    rows = dynamics.make_rows([calm, wild])
    values = {(row.code, row.item): row.treatment for row in rows}
    assert values["dynamics.warmup-share", ""] == 1.0
    for module in ("encoder", "core"):
        assert isinstance(values["dynamics.update-ratio", module], NotMeasured), "movement was not logged"
    assert values["dynamics.spikes", ""] == 1.0
    assert values["dynamics.lost-accuracy", ""] == pytest.approx(0.18)
    assert {(row.direction, row.passed) for row in rows} == {(Direction.CONTEXT, None)}
    assert all("2" in row.n and "12" in row.n for row in rows)

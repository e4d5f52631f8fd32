"""Spikes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from diagnostics.records import StepScalars
from diagnostics.rules.families.gradients.spikes import SPIKE001, find_spikes
from diagnostics.rules.run_history import RunHistory
from tests.diagnostics.rules.trainings import Cases, changed, spiking, train

CASES: Cases = {
    "SPIKE001": (changed(spiking, steps=60), lambda **o: train(steps=60, **o)),
}


def regular(calls: int) -> Sequence[StepScalars]:
    """A gradient of 1, and of 100 in every fifth step, which makes so many calls."""
    numbers = [{"calls": 1, "calls_with_gradient": 1, "output_rms": 1.0, "gradient_max": 1.0}] * 60
    for step in range(4, 60, 5):
        numbers[step] = {**numbers[step], "calls": calls, "gradient_max": 100.0}
    return [StepScalars(step, 8, {"net": each}, ("net",)) for step, each in enumerate(numbers)]


@pytest.mark.parametrize(("calls", "rules"), [(1, ["SPIKE001"]), (2, [])])
def test_a_step_is_no_spike_among_those_that_make_the_same_calls(calls: int, rules: list[str]) -> None:
    options = {name: option.default for name, option in SPIKE001.options.items()}
    assert [each.rule for each in find_spikes(RunHistory(regular(calls)), options)] == rules

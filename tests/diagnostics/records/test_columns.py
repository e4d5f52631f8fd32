"""A function of columns gives each step what it gives for the step's own numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnostics.records import Absent, OutputStats, root_sum_squares
from diagnostics.records.columns import Agreement, Apart, Column, at_step, largest_of

NUMBERS = st.floats(-10, 10, allow_nan=False) | st.sampled_from([0.0, 1.0, math.nan, math.inf])


def _branches(x: Any, y: Any) -> Any:
    if x > 1.0 and x - x == 0.0:
        return "large"
    return x / y if y else largest_of([x, y, 0.5])


FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "branches": _branches,
    "arithmetic": lambda x, y: abs(2.0 * x - y) + 1.0 - (-y) * 3.0,
    "divided": lambda x, y: 1.0 / (x * x + 1.0) + (y * y) ** 0.5,
    "comparison": lambda x, y: "less" if x < y else "equal" if x == y else "not equal" if x != y else "?",
    "norm": lambda x, y: root_sum_squares([x, y]),
    "smallest": lambda x, y: min(x, y, 1.0),
}


@given(st.sampled_from(sorted(FUNCTIONS)), st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8))
def test_each_step_has_the_result_of_its_own_numbers(name: str, pairs: list[tuple[float, float]]) -> None:
    function = FUNCTIONS[name]
    found: dict[int, Any] = {}
    waiting = list(range(len(pairs)))
    while waiting:
        agreement = Agreement(waiting)
        columns = [Column(list(values), agreement) for values in zip(*pairs, strict=True)]
        result = function(*columns)
        assert agreement.steps[0] == waiting[0]
        found.update({step: at_step(result, step) for step in agreement.steps})
        waiting = [step for step in waiting if step not in agreement.steps]
    for step, (x, y) in enumerate(pairs):
        alone = function(x, y)
        assert found[step] == alone or (found[step] != found[step] and alone != alone)


@pytest.mark.parametrize("use", [str, float, int, hash, math.sqrt, list, lambda each: f"{each:.3g}"])
def test_a_use_that_needs_one_number_is_refused(use: Callable[[Any], Any]) -> None:
    with pytest.raises(Apart):
        use(Column([1.0, 2.0], Agreement([0, 1])))


def test_a_record_of_one_step_has_its_numbers() -> None:
    agreement = Agreement([0, 1])
    absent = Absent("not known")
    stats = OutputStats(2, 3, Column([0.1, 0.2], agreement), Column([1.0, 2.0], agreement), absent, True)  # type: ignore[arg-type]
    single = at_step({"a": stats, "b": (absent, 1)}, 1)
    assert single["a"] == OutputStats(2, 3, 0.2, 2.0, absent, True)
    assert single["b"] == (absent, 1)


def test_steps_with_another_value_are_left_out() -> None:
    agreement = Agreement([0, 1, 2])
    assert Column([3, 4, 3], agreement).settle() == 3
    assert agreement.steps == [0, 2]

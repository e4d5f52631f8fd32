"""Which modules that a step leaves out may be called again."""

from __future__ import annotations

import pytest

from diagnostics.recording.calls.call_intervals import CallIntervals


def run(calls: str) -> str:
    """Of a module that is called where there is an x: what is said of each step it is left out of."""
    intervals, said = CallIntervals(), ""
    for step in calls:
        left_out = intervals.add(["block"], {"block"} if step == "x" else set(), 1)
        said += "x" if step == "x" else "?" if left_out else "!"
    return said


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ("........", "?????!!!"),
        ("x.......", "x?????!!"),
        ("xxx.......", "xxx?????!!"),
        ("x..x..x..x..x", "x??x??x!!x!!x"),
        ("x..x..x...x", "x??x??x!!?x"),
        ("x.x..x.x..x" + "." * 17, "x?x??x?x??x" + "?" * 15 + "!!"),
    ],
)
def test_a_module_may_return_until_five_times_its_longest_interval(calls: str, said: str) -> None:
    assert run(calls) == said


@pytest.mark.parametrize("calls", [7, 40])
def test_steps_that_are_added_together_count_as_each_of_them(calls: int) -> None:
    together, alone = CallIntervals(), CallIntervals()
    together.add(["block"], {"block"}, calls)
    for _ in range(calls):
        alone.add(["block"], {"block"}, 1)
    for step in range(8):
        settled = [each.are_settled(["block"], set()) for each in (together, alone)]
        assert settled == [step >= 5] * 2
        assert together.add(["block"], set(), 1) == alone.add(["block"], set(), 1)

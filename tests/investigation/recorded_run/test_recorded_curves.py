"""The curves of a recorded run: only what it logged, held-out points unsmoothed."""

from __future__ import annotations

from typing import Any

from etrm.investigation.recorded_run.recorded_curves import CURVES, FIGURE, make_curves
from etrm.training.scoring.held_out_curve import SOLVED, TOKENS


def logged(steps: int, every: int = 0) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [
        {"step": step, "accuracy_all": step / steps} for step in range(1, steps + 1)
    ]
    for line in lines:
        if every and line["step"] % every == 0:
            line |= {SOLVED: 0.25, TOKENS: 0.5}
    return lines


def test_a_run_without_held_out_scores_has_its_training_curve_alone() -> None:
    (curve,) = make_curves(logged(20), seed=3)
    assert (curve.figure, curve.label, curve.seed) == (FIGURE.key, CURVES["accuracy_all"], 3)
    assert len(curve.x) == 10  # means of two steps
    assert curve.y[0] == 0.075


def test_the_held_out_points_are_those_of_the_log() -> None:
    curves = {curve.label: curve for curve in make_curves(logged(100, every=25), seed=0)}
    for key, value in ((TOKENS, 0.5), (SOLVED, 0.25)):
        curve = curves[CURVES[key]]
        assert (curve.x, curve.y) == ((25.0, 50.0, 75.0, 100.0), (value,) * 4)


def test_a_run_that_logged_nothing_has_no_curve() -> None:
    assert make_curves([], seed=0) == ()

"""Scores of steps by the reference: a case that is written out."""

from __future__ import annotations

import numpy as np
import pytest

from etrm.reference.evaluation.step_scores import AnsweredSteps, score_readouts, score_steps

GOOD, BAD = np.array([2, 3]), np.array([2, 4])
ANSWERED = AnsweredSteps(
    inputs=[BAD, BAD],
    labels=[GOOD, GOOD],
    in_region=[True, True],
    tokens=[[GOOD, BAD], [BAD, GOOD]],
    q_halt=[[1.0, -1.0], [-1.0, -1.0]],
    moved=[[1.0, 2.0], [3.0, 5.0]],
)


def test_steps_are_counted() -> None:
    assert score_steps(ANSWERED) == [
        {"right": 1, "changed": 0.25, "moved": 1.5, "halted": 0.5},
        {"right": 1, "changed": 0.5, "moved": 4.0, "halted": 0.5},
    ]


def test_the_step_that_is_read_is_chosen() -> None:
    found = score_readouts(ANSWERED)
    assert {code: (one["right"], one["gained"], one["lost"]) for code, one in found.items()} == {
        "last": (1, 0, 0),
        "best-fixed": (0, 0, 1),  # each answer is read where the other one is right
        "halting": (2, 1, 0),
        "any": (2, 1, 0),
    }
    assert found["halting"]["change"] == 0.25
    assert found["halting"]["high"] == pytest.approx(
        0.25 + 12.7062 * 0.25, abs=1e-4
    )  # t with one degree of freedom

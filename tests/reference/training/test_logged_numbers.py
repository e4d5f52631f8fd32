"""Logged numbers of the reference, against numbers counted by hand."""

from __future__ import annotations

import math

import pytest
import torch

from etrm.config import load, with_settings
from etrm.reference.model.context import DemoPairs
from etrm.reference.recorded import RecordedBatch, RecordedPart, RecordedStep, Snapshot
from etrm.reference.training.logged_numbers import GRADIENT_NORM, compute_logged
from etrm.reference.training.objective import NOT_SCORED

CONFIG = with_settings(load("smoke"), train={"batch_size": 4, "loss": "softmax"})
NOTHING = torch.zeros(0)
BATCH = RecordedBatch(
    torch.zeros(2, 2),
    NOTHING,
    NOTHING,
    None,
    NOTHING,
    NOTHING,
    DemoPairs(NOTHING, NOTHING, None, NOTHING, 0, None),
)


def part_of(
    rows: slice, labels: list[list[int]], answers: list[list[int]], q: list[float], halted: list[bool]
) -> RecordedPart:
    """Rows whose answers have all of the probability, after 4 steps if they halt, else 2."""
    logits = 100.0 * torch.nn.functional.one_hot(torch.tensor(answers), 12).float()
    carry = {"halted": torch.tensor(halted), "steps": torch.tensor([4 if one else 2 for one in halted])}
    found = RecordedPart(rows, {}, None, BATCH, carry, logits, torch.tensor(q))
    found.labels, found.total = torch.tensor(labels), torch.tensor(1.0 + len(q))
    return found


def test_numbers_of_four_rows_in_two_parts() -> None:
    first = part_of(
        slice(0, 2), [[2, 3], [2, NOT_SCORED]], [[2, 3], [3, 3]], q=[1.0, -1.0], halted=[True, False]
    )
    second = part_of(
        slice(2, 4), [[2, 3], [NOT_SCORED, NOT_SCORED]], [[2, 4], [0, 0]], q=[2.0, 3.0], halted=[False, True]
    )
    begins = {"halted": torch.tensor([True, False, False, False])}
    before = Snapshot(1, {}, {}, {}, 0, {0: begins}, {}, NOTHING, NOTHING)
    step = RecordedStep(before, 0, 4, (), parts=[first, second])
    step.gradients = {"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}
    found = compute_logged(step, CONFIG)
    softplus = [math.log1p(math.exp(x)) for x in (1.0, -1.0, 2.0)]
    assert found == {
        "bucket": 0,
        "rows": 4,
        "tokens": 8,
        "loss": 6 / 4,
        "lm_loss": pytest.approx((0 + 100 + 50) / 3),
        "q_halt_loss": pytest.approx((softplus[0] - 1 + softplus[1] + softplus[2]) / 3),
        "accuracy_all": pytest.approx((1 + 0 + 0.5) / 3),
        "exact_all": pytest.approx(1 / 3),
        "accuracy_halted": 1.0,
        "exact_halted": 1.0,
        "q_halt_accuracy": pytest.approx(2 / 3),
        "q_halt_base_rate": pytest.approx(2 / 3),
        "q_halt_balanced": pytest.approx((1 + 1 / 2) / 2),
        "halted_share": 2 / 4,
        "halted_forced_share": 1.0,
        "held_by_exploration_share": 1 / 4,
        "steps_at_halt": 4.0,
        "steps_mean": 3.0,
        "reset_share": 1 / 4,
        "lr_factor": 1.0,
        GRADIENT_NORM: 5.0,
    }


def test_a_number_that_no_row_supports_is_none() -> None:
    part = part_of(slice(0, 1), [[NOT_SCORED]], [[2]], q=[-1.0], halted=[False])
    before = Snapshot(1, {}, {}, {}, 0, {0: {"halted": torch.tensor([True])}}, {}, NOTHING, NOTHING)
    found = compute_logged(RecordedStep(before, 0, 1, (), parts=[part]), CONFIG)
    assert {name for name, value in found.items() if value is None} == {
        "lm_loss",
        "q_halt_loss",
        "accuracy_all",
        "exact_all",
        "accuracy_halted",
        "exact_halted",
        "q_halt_accuracy",
        "q_halt_base_rate",
        "q_halt_balanced",
        "halted_forced_share",
        "steps_at_halt",
    }

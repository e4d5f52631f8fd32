from __future__ import annotations

import json
import math
from statistics import mean

import pytest
import torch

from etrm.config import TrainConfig
from etrm.model.act import Carry
from etrm.training.loss import Loss
from etrm.training.metrics import StepSums, compute_step_metrics, replace_nonfinite, sum_step


def metrics(
    lm: list[float],
    exact: list[bool],
    q_halt: list[float],
    halted: list[bool],
    steps: list[int],
    scored: list[bool] | None = None,
) -> dict[str, float | None]:
    """Metrics of rows whose token accuracy is 1 where exact and a quarter elsewhere."""
    is_scored = torch.tensor(scored if scored is not None else [True] * len(lm))
    is_exact, logits = torch.tensor(exact), torch.tensor(q_halt)
    loss = Loss(
        lm=torch.tensor(lm, dtype=torch.float64) * is_scored,
        q_halt=0.5 * torch.ones(len(lm)) * is_scored,
        scored=is_scored,
        token_accuracy=torch.where(is_exact, 1.0, 0.25) * is_scored,
        exact=is_exact,
        q_correct=((logits >= 0) == is_exact) & is_scored,
    )
    z = torch.zeros(len(lm), 1, 1)
    carry = Carry(z, z, torch.tensor(steps), torch.tensor(halted))
    sums = sum_step(loss, loss.total(TrainConfig(q_halt_weight=0.5)), logits, carry, max_steps=4)
    return compute_step_metrics(StepSums(*sums.tolist()), len(lm))


def test_every_metric_of_four_rows_by_hand() -> None:
    found = metrics(
        lm=[1.0, 2.0, 3.0, 4.0],
        exact=[True, False, False, False],
        q_halt=[1.0, 1.0, -1.0, -1.0],
        halted=[True, True, False, True],
        steps=[2, 4, 1, 4],
    )
    assert found == {
        "loss": (10 + 0.5 * 2) / 4,
        "lm_loss": 2.5,
        "q_halt_loss": 0.5,
        "accuracy_all": mean([1, 0.25, 0.25, 0.25]),
        "exact_all": 0.25,
        "accuracy_halted": mean([1, 0.25, 0.25]),
        "exact_halted": 1 / 3,
        "q_halt_accuracy": 0.75,
        "q_halt_base_rate": 0.75,
        "q_halt_balanced": mean([1, 2 / 3]),
        "halted_share": 0.75,
        "halted_forced_share": 2 / 3,
        "held_by_exploration_share": 0.0,
        "steps_at_halt": mean([2, 4, 4]),
        "steps_mean": mean([2, 4, 1, 4]),
    }


def test_sums_have_names_whatever_their_order() -> None:
    names = {
        name: float(10 + place)
        for place, name in enumerate(("scored", "lm_loss", "kl", "kl_parts", "loss", "entropy"))
    }
    sums = StepSums(**{**dict.fromkeys(StepSums._fields, 0.0), **names})
    found = compute_step_metrics(sums, rows=7)
    assert (found["loss"], found["lm_loss"], found["kl"]) == (14 / 7, 11 / 10, 12 / 10)
    assert "entropy" not in found
    with_entropy = StepSums(**{**dict.fromkeys(StepSums._fields, 0.0), **names, "entropy_parts": 1.0})
    assert compute_step_metrics(with_entropy, rows=7)["entropy"] == 15 / 10
    with pytest.raises(TypeError):
        StepSums(**dict.fromkeys((*StepSums._fields, "q_rihgt"), 0.0))


def test_a_row_that_wants_to_halt_and_goes_on_is_held() -> None:
    found = metrics([1.0] * 2, [False] * 2, [1.0, -1.0], halted=[False, False], steps=[1, 1])
    assert found["held_by_exploration_share"] == 0.5


def test_what_no_row_supports_is_none_and_not_zero() -> None:
    found = metrics([1.0] * 2, [False] * 2, [-1.0] * 2, halted=[False] * 2, steps=[1, 1])
    unsupported = {
        "accuracy_halted",
        "exact_halted",
        "q_halt_balanced",
        "halted_forced_share",
        "steps_at_halt",
    }
    assert {name for name, value in found.items() if value is None} == unsupported


def test_rows_without_scored_tokens_are_not_averaged_over() -> None:
    both = metrics([1.0, 9.0], [True, False], [1.0, 1.0], [True, True], [4, 4], scored=[True, False])
    one = metrics([1.0], [True], [1.0], [True], [4])
    for name in ("lm_loss", "q_halt_loss", "accuracy_all", "exact_all", "exact_halted", "q_halt_accuracy"):
        assert both[name] == one[name] == pytest.approx(one[name]), name


def test_always_continue_scores_its_base_rate_and_half_of_balanced() -> None:
    found = metrics([1.0] * 4, [True, False, False, False], [-5.0] * 4, [True] * 4, [4] * 4)
    assert (found["q_halt_accuracy"], found["q_halt_base_rate"], found["q_halt_balanced"]) == (
        0.75,
        0.75,
        0.5,
    )


def test_what_json_cannot_hold_becomes_none() -> None:
    values = replace_nonfinite({"a": math.inf, "b": math.nan, "c": 1.5, "d": 3, "e": None, "f": True})
    assert values == {"a": None, "b": None, "c": 1.5, "d": 3, "e": None, "f": True, "nonfinite": ["a", "b"]}
    json.dumps(values, allow_nan=False)

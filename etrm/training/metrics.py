"""One step's numbers, under names that say what they count, from sums over the rows of the global batch."""

from __future__ import annotations

import math
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from etrm.model.act import Carry
from etrm.training.loss import Loss

Numbers = dict[str, float | None]
Number = TypeVar("Number", Tensor, float)


class StepSums(NamedTuple, Generic[Number]):
    """The sums over rows that the metrics of a step are computed from; they add up over micro-batches.

    This is the only source of their names and order. The fields are tensors on the device and floats on the
    host.

    Attributes:
        loss: the loss that is trained on.
        scored: rows with a label that counts.
        halted: scored rows that halt now.
        exact: scored rows whose tokens are all right.
        exact_halted: scored rows that halt now and whose tokens are all right.
        q_right: scored rows whose halting logit tells whether they are right.
        q_right_of_exact: those of them that are right.
        q_right_of_wrong: those of them that are wrong.
        halts: rows that halt now.
        halts_forced: those of them that halt at the maximum of ACT steps.
        held: rows that continue although their logit says halt.
        lm_loss: cross entropies of the scored rows.
        q_halt_loss: halting losses of the scored rows.
        accuracy: token accuracies of the scored rows.
        accuracy_halted: token accuracies of the scored rows that halt now.
        steps_at_halt: ACT steps of the rows that halt now.
        steps: ACT steps of all rows.
        kl: divergences of the rows, 0 without any.
        kl_parts: parts of the batch that have a divergence.
        entropy: entropies of the rows' template weights, 0 without any.
        entropy_parts: parts of the batch that have an entropy.
    """

    loss: Number
    scored: Number
    halted: Number
    exact: Number
    exact_halted: Number
    q_right: Number
    q_right_of_exact: Number
    q_right_of_wrong: Number
    halts: Number
    halts_forced: Number
    held: Number
    lm_loss: Number
    q_halt_loss: Number
    accuracy: Number
    accuracy_halted: Number
    steps_at_halt: Number
    steps: Number
    kl: Number
    kl_parts: Number
    entropy: Number
    entropy_parts: Number


def sum_step(loss: Loss, total: Tensor, q_halt: Tensor, carry: Carry, max_steps: int) -> Tensor:
    """Compute the sums of some rows as one tensor, so that a single transfer suffices.

    Returns:
        (number of fields of :class:`StepSums`,) float64, in their order.
    """
    scored, halted = loss.scored, carry.halted & loss.scored
    right = loss.exact & scored
    wrong = ~loss.exact & scored
    # Few sums of many rows each: on a GPU, starting a kernel takes longer than any of them.
    counts = {
        "scored": scored,
        "halted": halted,
        "exact": right,
        "exact_halted": loss.exact & halted,
        "q_right": loss.q_correct,
        "q_right_of_exact": loss.q_correct & right,
        "q_right_of_wrong": loss.q_correct & wrong,
        "halts": carry.halted,
        "halts_forced": carry.halted & (carry.steps >= max_steps),
        "held": (q_halt.detach() > 0) & ~carry.halted,
    }
    values = {
        "lm_loss": loss.lm.detach().double(),
        "q_halt_loss": loss.q_halt.detach().double(),
        "accuracy": (loss.token_accuracy * scored).double(),
        "accuracy_halted": (loss.token_accuracy * halted).double(),
        "steps_at_halt": (carry.steps * carry.halted).double(),
        "steps": carry.steps.double(),
    }
    optional = [
        total.new_zeros(2, dtype=torch.float64)
        if each is None
        else torch.stack((each.detach().sum().double(), total.new_ones((), dtype=torch.float64)))
        for each in (loss.kl, loss.entropy)
    ]
    assert ("loss", *counts, *values) == StepSums._fields[: -2 * len(optional)]
    return torch.cat(
        (
            total.detach().double()[None],
            torch.stack([*counts.values()]).sum(1).double(),
            torch.stack([*values.values()]).sum(1),
            *optional,
        )
    )


def compute_step_metrics(sums: StepSums[float], rows: int) -> Numbers:
    """Loss, accuracy and halting of one ACT step, from the sums over all its ``rows``.

    ``*_all`` counts every scored row; ``*_halted`` the rows that halted now (the published TRM
    reports the latter, the published ETRM the former). A value that no row supports is None.
    ``q_halt_base_rate`` is what always predicting the commoner answer scores, and
    ``q_halt_balanced`` the mean of the two classes' accuracies.
    """
    s, wrong = sums, sums.scored - sums.exact
    per_class = [_ratio(s.q_right_of_exact, s.exact), _ratio(s.q_right_of_wrong, wrong)]
    known = [value for value in per_class if value is not None]
    return {
        "loss": s.loss / rows if math.isfinite(s.loss) else None,
        "lm_loss": _ratio(s.lm_loss, s.scored),
        "q_halt_loss": _ratio(s.q_halt_loss, s.scored),
        **({"kl": _ratio(s.kl, s.scored)} if s.kl_parts else {}),
        **({"entropy": _ratio(s.entropy, s.scored)} if s.entropy_parts else {}),
        "accuracy_all": _ratio(s.accuracy, s.scored),
        "exact_all": _ratio(s.exact, s.scored),
        "accuracy_halted": _ratio(s.accuracy_halted, s.halted),
        "exact_halted": _ratio(s.exact_halted, s.halted),
        "q_halt_accuracy": _ratio(s.q_right, s.scored),
        "q_halt_base_rate": _ratio(max(s.exact, wrong), s.scored),
        "q_halt_balanced": sum(known) / 2 if len(known) == 2 else None,
        "halted_share": s.halts / rows,
        "halted_forced_share": _ratio(s.halts_forced, s.halts),
        "held_by_exploration_share": s.held / rows,
        "steps_at_halt": _ratio(s.steps_at_halt, s.halts),
        "steps_mean": s.steps / rows,
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole and math.isfinite(part) else None


def replace_nonfinite(values: dict[str, Any]) -> dict[str, Any]:
    """Replace values that JSON cannot hold by None, and list their names under ``nonfinite``."""
    broken = [key for key, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
    if not broken:
        return values
    return values | dict.fromkeys(broken) | {"nonfinite": broken}

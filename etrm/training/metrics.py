"""One step's numbers, under names that say what they count, from sums over the rows of the global batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from etrm.model.act import Carry
from etrm.training.loss import Loss

Numbers = dict[str, float | None]


def step_sums(loss: Loss, total: Tensor, q_halt: Tensor, carry: Carry, max_steps: int) -> Tensor:
    """What the metrics of some rows are made of: sums over them, which add up over the parts of a batch.

    Returns:
        (19,) float64, the loss first.
    """
    scored, halted = loss.scored, carry.halted & loss.scored
    right = loss.exact & scored
    wrong = ~loss.exact & scored
    return torch.stack(
        [
            value.double()
            for value in (
                total.detach(),
                scored.sum(),
                halted.sum(),
                loss.lm.detach().sum(),
                loss.q_halt.detach().sum(),
                (loss.token_accuracy * scored).sum(),
                right.sum(),
                (loss.token_accuracy * halted).sum(),
                (loss.exact & halted).sum(),
                loss.q_correct.sum(),
                (loss.q_correct & right).sum(),
                (loss.q_correct & wrong).sum(),
                (carry.steps * carry.halted).sum(),
                carry.halted.sum(),
                (carry.halted & (carry.steps >= max_steps)).sum(),
                ((q_halt.detach() > 0) & ~carry.halted).sum(),
                carry.steps.sum(),
                (torch.zeros_like(loss.lm) if loss.kl is None else loss.kl.detach()).sum(),
                torch.zeros_like(total) if loss.kl is None else torch.ones_like(total),
            )
        ]
    )


def step_metrics(sums: Sequence[float], rows: int) -> Numbers:
    """Loss, accuracy and halting of one ACT step, from the sums over all its ``rows``.

    ``*_all`` counts every scored row; ``*_halted`` the rows that halted now (the published TRM
    reports the latter, the published ETRM the former). A value that no row supports is None.
    ``q_halt_base_rate`` is what always predicting the commoner answer scores, and
    ``q_halt_balanced`` the mean of the two classes' accuracies.
    """
    (loss_sum, n, n_halted, lm, q, accuracy, exact, accuracy_h, exact_h, q_right) = sums[:10]
    q_of_right, q_of_wrong, steps_h, halts, forced, held, steps, kl, kl_parts = sums[10:]
    per_class = [_ratio(q_of_right, exact), _ratio(q_of_wrong, n - exact)]
    known = [value for value in per_class if value is not None]
    return {
        "loss": loss_sum / rows if math.isfinite(loss_sum) else None,
        "lm_loss": _ratio(lm, n),
        "q_halt_loss": _ratio(q, n),
        **({"kl": _ratio(kl, n)} if kl_parts else {}),
        "accuracy_all": _ratio(accuracy, n),
        "exact_all": _ratio(exact, n),
        "accuracy_halted": _ratio(accuracy_h, n_halted),
        "exact_halted": _ratio(exact_h, n_halted),
        "q_halt_accuracy": _ratio(q_right, n),
        "q_halt_base_rate": _ratio(max(exact, n - exact), n),
        "q_halt_balanced": sum(known) / 2 if len(known) == 2 else None,
        "halted_share": halts / rows,
        "halted_forced_share": _ratio(forced, halts),
        "held_by_exploration_share": held / rows,
        "steps_at_halt": _ratio(steps_h, halts),
        "steps_mean": steps / rows,
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole and math.isfinite(part) else None


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """The same values with None in place of what JSON cannot hold, and its names under ``nonfinite``."""
    broken = [key for key, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
    if not broken:
        return values
    return values | dict.fromkeys(broken) | {"nonfinite": broken}

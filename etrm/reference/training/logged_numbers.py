"""The numbers that a step logs, from the rows of all its micro-batches, written plainly.

Shapes: B rows, S tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from etrm.config import Config
from etrm.device import to_host
from etrm.reference.recorded import RecordedPart, RecordedStep
from etrm.reference.training.objective import NOT_SCORED, row_losses
from etrm.reference.training.optimisation import rate_factor

GRADIENT_NORM = "grad_norm_before_clip"
"""The only number that torch sums in float32."""


@dataclass(frozen=True)
class _Row:
    """One row after a step; ``kl`` and ``entropy`` are None where the model has none."""

    scored: bool
    share: float
    right: bool
    foretold: bool
    says_halt: bool
    halted: bool
    steps: int
    cross_entropy: float
    halting: float
    kl: float | None
    entropy: float | None


def compute_logged(step: RecordedStep, config: Config) -> dict[str, float | None]:
    """Compute the logged numbers of a step from what it recorded; None where no row supports one.

    Names that end in ``_all`` are means over the rows with a scored token, those in ``_halted`` over the ones of them
    that halt now.
    """
    rows = [row for part in step.parts if part.labels is not None for row in _read_rows(part, config)]
    scored = [row for row in rows if row.scored]
    ended = [row for row in scored if row.halted]
    halted = [row for row in rows if row.halted]
    right = _mean([row.right for row in scored])
    classes = [_mean([row.foretold for row in scored if row.right is wanted]) for wanted in (True, False)]
    begins = step.before.carries[step.bucket]["halted"].tolist()
    found = {
        "bucket": step.bucket,
        "rows": step.batch_size,
        "tokens": sum(part.batch.inputs.numel() for part in step.parts),
        "lm_loss": _mean([row.cross_entropy for row in scored]),
        "q_halt_loss": _mean([row.halting for row in scored]),
        "accuracy_all": _mean([row.share for row in scored]),
        "exact_all": right,
        "accuracy_halted": _mean([row.share for row in ended]),
        "exact_halted": _mean([row.right for row in ended]),
        "q_halt_accuracy": _mean([row.foretold for row in scored]),
        "q_halt_base_rate": None if right is None else max(right, 1 - right),
        "q_halt_balanced": None if None in classes else sum(one or 0.0 for one in classes) / 2,
        "halted_share": len(halted) / step.batch_size,
        "halted_forced_share": _mean([row.steps >= config.model.halt.max_steps for row in halted]),
        "held_by_exploration_share": sum(row.says_halt and not row.halted for row in rows) / step.batch_size,
        "steps_at_halt": _mean([row.steps for row in halted]),
        "steps_mean": _mean([row.steps for row in rows]),
        "reset_share": sum(begins) / len(begins),
        "lr_factor": rate_factor(step.before.step, config.train),
    }
    totals = [part.total for part in step.parts if part.total is not None]
    if len(totals) == len(step.parts):  # a recipe that cannot be watched records none
        found["loss"] = sum(map(float, totals)) / step.batch_size
    if any(row.kl is not None for row in rows):
        found["kl"] = _mean([row.kl or 0.0 for row in scored])
    if any(row.entropy is not None for row in rows):
        found["entropy"] = _mean([row.entropy or 0.0 for row in scored])
    if config.train.clip_norm is not None:
        dense = [value for value in step.gradients.values() if not value.is_sparse]
        found[GRADIENT_NORM] = math.sqrt(sum(float(value.double().square().sum()) for value in dense))
    return found


def _read_rows(part: RecordedPart, config: Config) -> list[_Row]:
    assert part.labels is not None
    losses = row_losses(part.logits, part.q_halt, part.labels, None, None, config.train)
    count = (part.labels != NOT_SCORED).sum(1)
    right = (part.logits.argmax(-1) == part.labels).sum(1)  # no token is NOT_SCORED
    columns = {
        "count": count,
        "right": right,
        "q_halt": part.q_halt,
        "halted": part.carry_out["halted"],
        "steps": part.carry_out["steps"],
        "cross_entropy": losses.cross_entropy,
        "halting": losses.halting,
        "kl": part.kl,
        "entropy": part.entropy,
    }
    listed = {name: None if value is None else to_host(value).tolist() for name, value in columns.items()}
    found = []
    for number in range(len(count)):
        own: dict[str, Any] = {
            name: None if values is None else values[number] for name, values in listed.items()
        }
        solved = own["right"] == own["count"] > 0
        found.append(
            _Row(
                scored=own["count"] > 0,
                share=own["right"] / max(1, own["count"]),
                right=solved,
                foretold=(own["q_halt"] >= 0) == solved,
                says_halt=own["q_halt"] > 0,
                halted=own["halted"],
                steps=own["steps"],
                cross_entropy=own["cross_entropy"],
                halting=own["halting"],
                kl=own["kl"],
                entropy=own["entropy"],
            )
        )
    return found


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None

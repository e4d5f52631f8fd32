"""Whether an evaluator scores known-answer predictions correctly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.rules.rule import CRITICAL, Family, Rule
from diagnostics.testing.failure import failure

_SCORING = (
    "padding is counted, predictions and labels are shifted against each other, or the denominator is wrong"
)
LABELS_BELOW_ONE = Cause("labels-below-one", _SCORING)
WRONG_ABOVE_ZERO = Cause("wrong-above-zero", _SCORING)
ORACLE001 = Rule(
    "ORACLE001",
    CRITICAL,
    "The evaluator scores known-answer predictions wrongly",
    "score",
    "Score a single sample by hand, then two.",
    source="audit",
    causes=(LABELS_BELOW_ONE, WRONG_ABOVE_ZERO),
    arguments="EvaluatorOracle",
    what="The probe `EvaluatorOracle`: the evaluator did not give 1 to the labels themselves, or not 0 to"
    " predictions that are all wrong.",
    why="Every reported number passes through the evaluator.",
    example="Padding counts as right; the sum over the last, smaller batch is divided by the full batch size.",
    false_alarms="Scores that are not between 0 and 1, or metrics that reward wrong answers.",
)
FAMILY = Family(180, "Evaluator", (ORACLE001,))


@dataclass(frozen=True)
class EvaluatorOracle:
    """ORACLE001: the evaluator gives 1 to the labels and 0 to predictions that are all wrong.

    Attributes:
        score: Function (predictions, batch) -> the share that is right.
        labels: Function that takes a batch and returns predictions that are all right.
        wrong: Function that takes a batch and returns predictions that are all wrong.
    """

    score: Callable[[Any, Any], float]
    labels: Callable[[Any], Any]
    wrong: Callable[[Any], Any]
    rule: ClassVar[str] = "ORACLE001"

    def run(self, model: nn.Module, batch: Any) -> list[Finding]:
        """Does not use the model."""
        found = []
        for given, make, expected, cause in (
            ("the labels", self.labels, 1.0, LABELS_BELOW_ONE),
            ("wrong predictions", self.wrong, 0.0, WRONG_ABOVE_ZERO),
        ):
            score = float(self.score(make(batch), batch))
            if not math.isclose(score, expected, abs_tol=1e-6):
                message = f"the evaluator gives {score:.4g} to {given}, expected {expected:g}"
                found.append(failure(ORACLE001, "", message, score, expected, cause))
        return found

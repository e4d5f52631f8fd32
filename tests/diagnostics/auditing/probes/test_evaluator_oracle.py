"""An evaluator on known-answer predictions."""

from __future__ import annotations

from tests.diagnostics.rules.trainings import Cases, scored

CASES: Cases = {
    "ORACLE001": (
        scored(lambda predictions, batch: 0.5),
        scored(lambda predictions, batch: float((predictions == 0).float().mean())),
    ),
}

"""Cost of a forward pass."""

from __future__ import annotations

from diagnostics import Cost
from tests.diagnostics.rules.trainings import HEALTHY, Cases, run_probe

CASES: Cases = {
    "COST001": (run_probe(Cost(lambda model, batch: model(batch))), HEALTHY),
}

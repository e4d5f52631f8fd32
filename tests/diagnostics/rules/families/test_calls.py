"""Calls of a module."""

from __future__ import annotations

from torch import nn

from tests.diagnostics.rules.trainings import HEALTHY, Cases, changed

CASES: Cases = {
    "CALL001": (changed(lambda model: setattr(model, "first_cycle_has_gradient", False)), HEALTHY),
    "CALL002": (changed(lambda model: setattr(model, "spare", nn.Linear(2, 2))), HEALTHY),
}

"""Collapsed outputs."""

from __future__ import annotations

from tests.diagnostics.rules.trainings import HEALTHY, Cases, changed, inner, nearly_equal

CASES: Cases = {
    "COLLAPSE001": (changed(inner("encoder", nearly_equal)), HEALTHY),
}

"""Frozen parameters that move."""

from __future__ import annotations

from tests.diagnostics.rules.trainings import Cases, head_taken_out, head_zeroed, updated

CASES: Cases = {
    "FROZEN001": (
        updated(head_zeroed, expect_frozen=["head"]),
        updated(head_taken_out, expect_frozen=["head"]),
    ),
}

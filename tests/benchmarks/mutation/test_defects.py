from __future__ import annotations

from benchmarks.mutation.defects import DEFECTS
from benchmarks.mutation.run import place_of
from tests.mirrors import ROOT


def test_every_defect_can_be_planted_once_in_this_checkout() -> None:
    """Where this fails, a line that a defect changes was edited: add its new form to the defect."""
    assert [defect.name for defect in DEFECTS if place_of(defect, ROOT) is None] == []


def test_defects_are_spread_and_named_apart() -> None:
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS) >= 40
    assert {defect.area for defect in DEFECTS} == {
        "model", "data", "training", "evaluation", "checkpoints", "investigation", "diagnostics", "reports", "commands",
    }  # fmt: skip


def test_a_defect_changes_what_the_code_does() -> None:
    assert all(text != replacement for defect in DEFECTS for text, replacement in defect.forms)

"""The evidence in one picture: which rows, in which order, and that any value can be drawn."""

from __future__ import annotations

import math

from etrm.investigation.evidence.table import Direction, EvidenceRow
from etrm.investigation.records import NotMeasured
from etrm.investigation.result import Result
from reports.plots.evidence_overview import MOST_ROWS, draw_evidence, select_rows


def rows_of(example: Result) -> list[EvidenceRow]:
    return [row for hypothesis in example.hypotheses.values() for row in hypothesis.evidence]


def test_failed_rows_come_first_and_unmeasured_ones_are_left_out(example: Result) -> None:
    base = rows_of(example)[0]
    known = base.replace(treatment=1.0, control=2.0, direction=Direction.LOWER)
    context, passed, failed = (known.replace(passed=outcome) for outcome in (None, True, False))
    absent = known.replace(treatment=NotMeasured(absent="no run"), passed=None)
    assert select_rows([context, absent, passed, failed]) == [failed, passed, context]
    assert len(select_rows([known] * (MOST_ROWS + 5))) == MOST_ROWS


def test_rows_with_zero_negative_and_missing_controls_are_drawn(example: Result) -> None:
    base = rows_of(example)[0]
    values = [(0.0, 0.0), (-2.0, 1.0), (1e9, None), (math.pi, NotMeasured(absent="none"))]
    rows = [base.replace(treatment=treatment, control=control) for treatment, control in values]
    assert draw_evidence(rows).startswith(b"\x89PNG")
    assert draw_evidence(rows) == draw_evidence(rows)

"""Stable codes: each stands for one thing, has the form of a code, and is in the documentation."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from etrm.investigation import codes
from etrm.investigation.evidence.table import Instrument, Metric
from etrm.investigation.records import Code
from etrm.investigation.result import CauseCode

PAGE = Path(__file__).parents[2] / "docs" / "result-codes.md"
REGENERATE = "REGENERATE_GOLDEN"
PARTS = {f"h{i}" for i in range(1, 8)} | {"any", "dynamics", "rules", "frozen", "original", "baseline"}
CODE = TypeAdapter(Code)
KINDS = {
    "metrics": [metric.code for metric in codes.declared(Metric)],
    "instruments": [instrument.code for instrument in codes.declared(Instrument)],
    "reasons": codes.reasons(),
    "causes": [code.value for code in CauseCode],
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_code_stands_for_one_thing_and_has_the_form_of_a_code(kind: str) -> None:
    found = KINDS[kind]
    assert found
    assert [code for code, count in Counter(found).items() if count > 1] == []
    assert [CODE.validate_python(code) for code in found] == found
    assert {code.partition(".")[0] for code in found} <= PARTS | {"cause"}


def test_the_page_is_that_of_the_code() -> None:
    if os.environ.get(REGENERATE):
        PAGE.write_text(codes.page(), "utf-8")
    assert PAGE.read_text("utf-8") == codes.page(), (
        "python -m etrm.investigation.codes > docs/result-codes.md"
    )


def test_the_page_has_every_code() -> None:
    text = PAGE.read_text("utf-8")
    assert [code for found in KINDS.values() for code in found if f"`{code}`" not in text] == []

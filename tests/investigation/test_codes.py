"""Stable codes: each means one thing, and has the form of a code."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import TypeAdapter

from etrm.investigation import codes
from etrm.investigation.evidence.table import Instrument, Metric
from etrm.investigation.records import Code
from etrm.investigation.result import CauseCode

PARTS = {f"h{i}" for i in range(1, 8)} | {f"n{i}" for i in range(1, 6)}
PARTS |= {"any", "dynamics", "rules", "frozen", "original", "baseline", "reference", "run", "own"}
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

"""The words for formulas: their steps, one a line."""

from __future__ import annotations

import pytest
from hypothesis import given

from etrm.symbolic import parse
from etrm.symbolic.formula import Rule
from reports.runs.explanations import list_steps, shorten_rule
from tests.symbolic.strategies import rules

ONE = "where colour(x, 1) paint 2"
ALSO = f"{ONE} also where colour(x, 2) paint 3"


@pytest.mark.parametrize(
    ("rule", "steps"),
    [
        (ONE, [ONE]),
        (ALSO, [ONE, "also where colour(x, 2) paint 3"]),
        (f"{ALSO} then {ONE}", [ONE, "also where colour(x, 2) paint 3", f"then {ONE}"]),
    ],
)
def test_every_step_has_a_line(rule: str, steps: list[str]) -> None:
    assert list_steps(parse(rule)) == steps


def test_a_long_rule_is_its_first_step_and_a_number() -> None:
    assert shorten_rule(parse(ALSO)) == ALSO
    assert shorten_rule(parse(f"{ALSO} then {ONE}")) == f"{ONE} … and 2 more steps"


@given(rules())
def test_the_steps_are_the_rule(rule: Rule) -> None:
    assert " ".join(list_steps(rule)) == str(rule)

"""Every rule fires on one small training and not on another that lacks only the fault; families are found by file."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

import diagnostics.rules.families
from diagnostics import RULES
from diagnostics.rules.registry import families
from diagnostics.rules.rule import Family
from tests.diagnostics.rules.trainings import Cases, complete
from tests.sampled import one_in

TESTS = Path(__file__).parents[1]


def cases() -> Cases:
    """The cases of every test file of a rule, which is found by its name."""
    found: Cases = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        if "\nCASES: Cases = {" in path.read_text("utf-8"):
            module = ".".join(path.relative_to(TESTS.parents[1]).with_suffix("").parts)
            found |= import_module(module).CASES
    return found


CASES = cases()
IDS = (
    "COV001 COV002 COV003 GRAD004 WASTE001 GRAD001 GRAD002 GRAD003 GRAD005 CALL001 CALL002 REACH001 REACH002 REACH004"
    " REACH003 REACH005 MOVE001 MOVE002 MOVE003 MOVE004 MOVE005 FROZEN001 MODE001 SHARE001 COLLAPSE001 SPIKE001"
    " DRIFT001 RULE001 LEAK001 LOSS001 CONTEXT001 ORIGIN001 ORACLE001 HALT001 HALT002 COST001"
)
"""The order of version 0.1; new rules may come between them."""


def test_every_rule_has_both_cases() -> None:
    assert set(CASES) == {rule.id for rule in RULES}


def test_the_order_of_the_ids_stays() -> None:
    known = IDS.split()
    assert [rule.id for rule in RULES if rule.id in known] == known


def test_a_family_is_found_because_its_file_is_there() -> None:
    folder = Path(diagnostics.rules.families.__file__).parent
    files = [path for path in folder.rglob("*.py") if path.stem != "__init__"]
    names = [".".join(path.relative_to(folder).with_suffix("").parts) for path in files]
    here = [import_module(f"diagnostics.rules.families.{name}").FAMILY for name in names]
    assert len(here) > 20
    assert all(isinstance(family, Family) for family in here)
    assert {id(family) for family in here} <= {id(family) for family in families()}
    assert len({family.place for family in families()}) == len(families())


def test_what_a_rule_explains_is_a_rule_that_is_tried_later() -> None:
    ranks = {rule.id: rule.rank for rule in RULES}
    for rule in RULES:
        assert set(rule.explains) <= set(ranks)
        assert rule.rank is not None or not rule.explains
        later = [ranks[other] for other in rule.explains if other != rule.id]
        assert all(rank is None or rank > rule.rank for rank in later)


@pytest.mark.parametrize("rule", CASES)
def test_it_fires(rule: str) -> None:
    assert rule in CASES[rule][0]()


@pytest.mark.parametrize("rule", one_in(2, CASES))
def test_it_does_not_fire_without_the_fault(rule: str) -> None:
    assert rule not in CASES[rule][1]()


@pytest.mark.parametrize("rule", one_in(3, [rule.id for rule in RULES if "min_steps" in rule.options]))
def test_it_waits_as_long_as_its_option_says(rule: str) -> None:
    assert rule not in CASES[rule][0](options={rule: {"min_steps": 1000}})


def test_no_rule_fires_on_the_healthy_case() -> None:
    assert complete() == set()

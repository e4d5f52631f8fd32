"""The families of the library: their sizes, their texts, and what the original's templates do."""

from __future__ import annotations

import numpy as np
import pytest

from etrm.config import SymbolicConfig
from etrm.config.symbolic import FAMILIES, Family
from etrm.symbolic.formula import TRUE, Where, free_variables
from etrm.symbolic.library import ORIGINAL, Library, recolour
from etrm.symbolic.parser import parse, parse_formula
from etrm.symbolic.search import apply_crisply

EVERY = Library.of(SymbolicConfig(families=FAMILIES))


def test_a_library_holds_the_families_that_are_listed_in_their_order() -> None:
    library = Library.of(SymbolicConfig(families=("counting", "original")))
    assert list(library.families) == ["counting", "original"]
    assert len(library.rules) == ORIGINAL
    assert library.conditions == (*library.families["counting"].conditions, TRUE)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_is_empty_or_says_anything_twice(family: Family) -> None:
    contents = EVERY.families[family]
    assert contents.rules or contents.conditions
    for formulas in (contents.rules, contents.conditions):
        assert len(set(map(str, formulas))) == len(formulas)


def test_everything_in_the_library_is_read_back_from_its_text() -> None:
    assert all(parse(str(rule)) == rule for rule in EVERY.rules)
    assert all(parse_formula(str(condition)) == condition for condition in EVERY.conditions)


def test_conditions_are_about_the_painted_cell() -> None:
    assert all(free_variables(condition) <= {"x"} for condition in EVERY.conditions)


def test_learned_conditions_grow_with_the_number_of_guards() -> None:
    small, large = (
        Library.of(SymbolicConfig(families=("learned",), guards=guards)).families["learned"]
        for guards in (2, 5)
    )
    assert (len(small.conditions), len(large.conditions)) == (4, 10)
    assert small.recolourings == 4 * 90


def test_the_original_templates_are_those_of_the_original() -> None:
    """30 fills, 90 recolourings, 7 maps, and 25 pairs of the first five maps."""
    rules = EVERY.families["original"].rules
    assert len(rules) == ORIGINAL == 30 + 90 + 7 + 25
    assert len({str(rule).partition(" paint")[0] for rule in rules[:30]}) == 3


def test_only_rules_for_what_the_grid_lacks_return_the_input() -> None:
    """In the original every template returned its input; with the right semantics most change this grid."""
    grid = np.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 1], [1, 1, 0, 0, 0], [2, 0, 3, 0, 3], [9, 8, 0, 6, 7]])
    same = [
        str(rule)
        for rule in EVERY.families["original"].rules
        if np.array_equal(apply_crisply(rule, [grid])[0], grid)
    ]
    twice = ["where true paint x.flip_columns", "where true paint x.flip_rows"]
    assert sorted(same) == sorted(f"{once} then {once}" for once in twice)


def test_a_recolouring_without_a_condition_asks_for_the_colour_alone() -> None:
    assert str(recolour(TRUE, 1, 2)) == "where colour(x, 1) paint 2"
    edge = parse_formula("edge(x)")
    assert recolour(edge, 1, 2) == Where(parse_formula("colour(x, 1) and edge(x)"), 2)

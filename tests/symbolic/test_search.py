"""The search finds rules that were hidden in demonstrations, and says so where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from etrm.config import SymbolicConfig
from etrm.config.symbolic import FAMILIES
from etrm.errors import ArgumentError
from etrm.symbolic.library import Library
from etrm.symbolic.parser import parse
from etrm.symbolic.search import apply_crisply, find_recolouring, measure_agreement, measure_fit, rank_rules
from tests.errors import raises_code
from tests.sampled import one_in

LIBRARY = Library.of(SymbolicConfig(families=FAMILIES))
GENERATOR = np.random.default_rng(0)
INPUTS = [GENERATOR.integers(0, 4, shape) for shape in 2 * ((5, 5), (4, 6), (6, 5), (7, 7), (8, 4))]
QUERY = GENERATOR.integers(0, 4, (6, 6))


def demos(text: str) -> list[tuple[Any, Any]]:
    return list(zip(INPUTS, apply_crisply(parse(text), INPUTS), strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "where colour(x, 1) paint 5",
        "where colour(x, 1) and edge(x) paint 5",
        "where colour(x, 0) and enclosed(x) paint 5",
        "where colour(x, 2) and largest(x) paint 5",
        "where colour(x, 1) and (exists y: touching(x, y) and colour(y, 2)) paint 5",
        "where colour(x, 1) and (inner(x) and (exists y: left_of(x, y) and colour(y, 3))) paint 5",
        "where colour(x, 1) and inner(x) paint 2 also where colour(x, 2) and inner(x) paint 1",
    ],
)
def test_a_hidden_recolouring_is_found(text: str) -> None:
    found = find_recolouring(demos(text), LIBRARY.conditions)
    assert found is not None
    assert measure_fit(found, demos(text)) == 1
    assert apply_crisply(found, [QUERY])[0].tolist() == apply_crisply(parse(text), [QUERY])[0].tolist()


@pytest.mark.parametrize(
    "text",
    one_in(
        2,
        [
            "where true paint x.rotate_90",
            "where true paint x.crop_to(3)",
            "where true paint x.mirror(2, 2)",
            "where true paint x.part(0, 2, 1, 2) then where true paint x.flip_rows",
        ],
    ),
)
def test_a_hidden_map_is_found(text: str) -> None:
    small = Library.of(SymbolicConfig(families=("dihedral",)))
    best = rank_rules(demos(text), small)[0]
    assert best.fit == 1
    assert apply_crisply(best.rule, [QUERY])[0].tolist() == apply_crisply(parse(text), [QUERY])[0].tolist()


def test_what_no_rule_explains_has_no_recolouring_and_a_fit_below_one() -> None:
    noise = [(grid, GENERATOR.integers(0, 4, grid.shape)) for grid in INPUTS]
    assert find_recolouring(noise, LIBRARY.conditions) is None
    assert rank_rules(noise, Library.of(SymbolicConfig(families=("original",))))[0].fit < 1


def test_fits_fall_and_equal_ones_keep_the_order_of_the_library() -> None:
    small = Library.of(SymbolicConfig(families=("original",)))
    found = rank_rules(demos("where colour(x, 1) paint 5"), small)
    assert [one.fit for one in found] == sorted((one.fit for one in found), reverse=True)
    places = [small.rules.index(one.rule) for one in found[1:] if one.fit == found[-1].fit]
    assert places == sorted(places)


def test_a_single_condition_goes_before_two_together() -> None:
    found = find_recolouring(demos("where colour(x, 1) and corner(x) paint 5"), LIBRARY.conditions)
    assert str(found) == "where colour(x, 1) and corner(x) paint 5"


def test_agreement_counts_cells_and_refuses_another_size() -> None:
    assert measure_agreement(np.array([[1, 2]]), np.array([[1, 3]])) == 0.5
    assert measure_agreement(np.array([[1, 2]]), np.array([[1], [2]])) == 0
    assert measure_agreement(np.zeros((0, 0)), np.zeros((0, 0))) == 0


def test_nothing_can_be_found_without_demonstrations() -> None:
    with raises_code(ArgumentError, "search.no-demonstrations"):
        find_recolouring([], LIBRARY.conditions)
    with raises_code(ArgumentError, "search.no-demonstrations"):
        measure_fit(parse("where true paint 1"), [])


def test_learned_conditions_mean_nothing_without_training() -> None:
    learned = Library.of(SymbolicConfig(families=("learned",)))
    assert rank_rules(demos("where colour(x, 1) paint 5"), learned) == []


def test_a_copy_is_no_recolouring() -> None:
    assert find_recolouring([(INPUTS[0], INPUTS[0])], LIBRARY.conditions) is None
    best = rank_rules([(INPUTS[0], INPUTS[0])], Library.of(SymbolicConfig(families=("dihedral",))))[0]
    assert str(best.rule) == "where true paint x.identity"

"""Blocks of rule tasks against the oracle of the family, which checks one task at a time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from etrm.data import load_tasks, rule_batches
from etrm.data.rule_batches import BLOCK, RuleBlock, RuleFamily, count_explanations, draw_block
from etrm.data.rules import (
    COMBINATIONS,
    CONDITIONS,
    TaskRule,
    find_explanations,
    parse_combinations,
    parse_rule_id,
)
from etrm.data.task import Pair
from etrm.errors import DataError
from tests.errors import raises_code

ALL = RuleFamily(COMBINATIONS, held_out=False, demos=(2, 3, 5))


def tasks_of(block: RuleBlock, step: int = 1) -> list[int]:
    return list(range(0, len(block.rules), step))


@pytest.mark.parametrize(("side", "held_out"), [(3, False), (6, True)])
def test_the_demonstrations_determine_the_rule_and_the_answer(side: int, held_out: bool) -> None:
    block = draw_block(RuleFamily(COMBINATIONS, held_out, (2, 3, 5)), side, 7)
    for row in tasks_of(block, 11):
        task = block.task(row, row)
        (rule,) = find_explanations(task.demos)
        (query,) = task.tests
        assert parse_rule_id(task.id) == block.rules[row] == rule.id
        assert rule.held_out == held_out
        np.testing.assert_array_equal(rule.apply(query.input), query.output)
        assert query != Pair(query.input, query.input)
        assert {grid.shape for grid in task.grids} == {(side, side)}


def test_parts_and_numbers_of_demonstrations_come_in_turn() -> None:
    block = draw_block(ALL, 3, 0)
    parts = [frozenset(part.partition("-")[0] for part in rule.split("+")) for rule in block.rules]
    assert parts[: len(COMBINATIONS)] == list(COMBINATIONS)
    assert set(Counter(parts).values()) == {51, 52}
    assert [block.demos[10 * turn] for turn in range(4)] == [2, 3, 5, 2]
    for row in tasks_of(block):
        shown = block.inputs[row, :-1].any((1, 2))
        assert not shown[block.demos[row] :].any()


def test_demonstrations_that_determine_no_rule_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a single grid of side 3, recolouring the inner cell explains every rule of one part, too."""
    monkeypatch.setattr(rule_batches, "MOST_DRAWS", 2 * BLOCK)
    with raises_code(DataError, "data.undetermined-rules", 1, 3):
        draw_block(RuleFamily(parse_combinations("rules:colours"), False, (1, 4)), 3, 0)


def test_a_block_is_a_function_of_its_number() -> None:
    first = draw_block(ALL, 3, 1)
    draw_block.cache_clear()
    again, other = draw_block(ALL, 3, 1), draw_block(ALL, 3, 2)
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert first.rules == again.rules
    assert len({*first.rules} & {*other.rules}) < BLOCK


def test_the_distribution_is_that_of_listed_tasks() -> None:
    """Numbers of colours, and the share of black cells, which the checks change; within six standard errors."""
    family = RuleFamily(parse_combinations("rules:colours"), held_out=False, demos=(3,))
    drawn = [draw_block(family, 3, number).task(row, row) for number in range(2) for row in range(BLOCK)]
    listed = load_tasks("rules:colours", "training", 3, 150)
    for measure in (
        lambda task: len(parse_rule_id(task.id).split(".")) == 4,
        lambda task: np.mean([(grid == 0).mean() for grid in task.grids]),
        lambda task: (task.tests[0].input == 0).mean(),
    ):
        a, b = (np.array([measure(task) for task in tasks], float) for tasks in (drawn, listed))
        assert abs(a.mean() - b.mean()) < 6 * np.hypot(a.std() / len(a) ** 0.5, b.std() / len(b) ** 0.5)


GRIDS = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 2), st.just(3), st.just(3)), elements=st.integers(0, 3)
)
RULES = st.builds(
    TaskRule,
    dihedral=st.integers(0, 7),
    shift=st.tuples(st.integers(-1, 1), st.integers(-1, 1)),
    colours=st.sampled_from([(), ((1, 2), (2, 3), (3, 1)), ((1, 4), (2, 5), (3, 6))]),
    recolour=st.none() | st.tuples(st.sampled_from(list(CONDITIONS)), st.integers(1, 9)),
)


def count_by_oracle(given: npt.NDArray[np.uint8], wanted: npt.NDArray[np.uint8]) -> int:
    return len(find_explanations([Pair(a, b) for a, b in zip(given, wanted, strict=True)]))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(GRIDS, RULES), min_size=1, max_size=4))
def test_explanations_are_counted_as_the_oracle_finds_them(
    cases: list[tuple[npt.NDArray[np.uint8], TaskRule]],
) -> None:
    """Ambiguous, determined and contradictory demonstrations; shorter sets are filled with black ones."""
    given, wanted, counts = [], [], []
    for grids, rule in cases:
        outputs = rule.apply(grids)
        padded = np.zeros((2, 2, 3, 3), np.uint8)
        padded[0, : len(grids)], padded[1, : len(grids)] = grids, outputs
        given.append(padded[0])
        wanted.append(padded[1])
        counts.append(count_by_oracle(grids, outputs))
    assert count_explanations(np.stack(given), np.stack(wanted)).tolist() == counts


@settings(max_examples=15, deadline=None)
@given(GRIDS, GRIDS)
def test_grids_that_no_rule_explains_are_counted_as_the_oracle_finds_them(
    given_grids: npt.NDArray[np.uint8], wanted: npt.NDArray[np.uint8]
) -> None:
    demos = min(len(given_grids), len(wanted))
    a, b = given_grids[:demos], wanted[:demos]
    assert count_explanations(a[None], b[None]).tolist() == [count_by_oracle(a, b)]

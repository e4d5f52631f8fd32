"""The rule family against a brute force that shares no code with it: every rule, applied cell by cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import permutations, product

import numpy as np
import numpy.typing as npt
import pytest

from etrm.config import load, with_settings
from etrm.data import check_leakage, find_leakage, load_tasks, rules
from etrm.data.rules import COMBINATIONS, KINDS, TaskRule, draw_rule_tasks, find_explanations, parse_rule_id
from etrm.data.task import Pair, Task
from etrm.errors import ConfigError, DataError, LeakageError
from tests.errors import raises_code

Array = npt.NDArray[np.uint8]

DIHEDRALS = {
    0: lambda r, c, n: (r, c),
    1: lambda r, c, n: (c, n - 1 - r),
    2: lambda r, c, n: (n - 1 - r, n - 1 - c),
    3: lambda r, c, n: (n - 1 - c, r),
    4: lambda r, c, n: (r, n - 1 - c),
    5: lambda r, c, n: (n - 1 - r, c),
    6: lambda r, c, n: (c, r),
    7: lambda r, c, n: (n - 1 - c, n - 1 - r),
}
"""From which cell of an n x n grid the cell (r, c) of each transform comes."""
SHIFTS = list(product((-1, 0, 1), repeat=2))
CONDITIONS = ("edge", "inner", "touching", "alone", "covered", "open")


def geometry(grid: Array, number: int, shift: tuple[int, int]) -> Array:
    n = len(grid)
    out = np.zeros_like(grid)
    for r, c in product(range(n), repeat=2):
        source = r - shift[0], c - shift[1]
        if 0 <= source[0] < n and 0 <= source[1] < n:
            out[r, c] = grid[DIHEDRALS[number](*source, n)]
    return out


def meets(grid: Array, condition: str) -> npt.NDArray[np.bool_]:
    n = len(grid)
    out = np.zeros(grid.shape, dtype=bool)
    for r, c in product(range(n), repeat=2):
        around = [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
        inside = [place for place in around if min(place) >= 0 and max(place) < n]
        edge = len(inside) < 4
        same = any(grid[place] == grid[r, c] for place in inside)
        covered = r > 0 and grid[r - 1, c] != 0
        truth = {"edge": edge, "inner": not edge, "touching": same, "alone": not same}
        truth |= {"covered": covered, "open": not covered}
        out[r, c] = truth[condition] and grid[r, c] != 0
    return out


def tables(seen: list[int]) -> Array:
    """(permutations, 10): every way to move all of the colours seen, no two to the same one."""
    ways = np.array(list(permutations(range(1, 10), len(seen))), np.uint8)
    ways = ways[(ways != seen).all(axis=1)]
    found = np.tile(np.arange(10, dtype=np.uint8), (len(ways), 1))
    found[:, seen] = ways
    return found


def family(grids: list[Array]) -> Iterator[list[Array]]:
    """The outputs, (rules, n, n) for each of the grids, of every rule of one or two parts, in batches."""
    moved = {(k, s): [geometry(grid, k, s) for grid in grids] for k in DIHEDRALS for s in SHIFTS}
    lut = tables(sorted({int(colour) for grid in grids for colour in np.unique(grid)} - {0}))
    recolours = list(product(CONDITIONS, range(1, 10)))
    for (k, s), images in moved.items():
        parts = (k != 0) + (s != (0, 0))
        if parts:
            yield [image[None] for image in images]
        if parts < 2:
            yield [lut[:, image] for image in images]
            masks = {condition: [meets(image, condition) for image in images] for condition in CONDITIONS}
            for condition, colour in recolours:
                pairs = zip(masks[condition], images, strict=True)
                yield [np.where(mask, np.uint8(colour), image)[None] for mask, image in pairs]
                if not parts:
                    pairs = zip(masks[condition], images, strict=True)
                    yield [np.where(mask, np.uint8(colour), lut[:, image]) for mask, image in pairs]


def answers(task: Task) -> list[Array]:
    """The different outputs for the query that some rule gives which explains every demonstration."""
    grids = [pair.input for pair in task.demos] + [task.tests[0].input]
    found: dict[bytes, Array] = {}
    for outputs in family(grids):
        fits = np.ones(len(outputs[0]), dtype=bool)
        for made, demo in zip(outputs, task.demos, strict=False):
            fits &= (made == demo.output).all(axis=(1, 2))
        found |= {out.tobytes(): out for out in outputs[-1][fits]}
    return list(found.values())


def combination(task: Task) -> frozenset[str]:
    return frozenset(part.partition("-")[0] for part in parse_rule_id(task.id).split("+"))


@pytest.mark.parametrize("subset", ["training", "evaluation"])
@pytest.mark.parametrize("parts", COMBINATIONS, ids=lambda parts: "+".join(sorted(parts)))
def test_the_demonstrations_determine_the_answer(subset: str, parts: frozenset[str]) -> None:
    (task,) = draw_rule_tasks(f"rules:{'+'.join(parts)}", subset, 4, 1)
    assert combination(task) == parts
    (answer,) = answers(task)
    np.testing.assert_array_equal(answer, task.tests[0].output)


def test_an_ambiguous_task_has_several_answers() -> None:
    """The brute force can tell rules apart: a symmetric grid does not tell which way it was turned."""
    grid = np.full((3, 3), 1, np.uint8)
    query = np.arange(9, dtype=np.uint8).reshape(3, 3) % 2
    task = Task("x", (Pair(grid, grid),), (Pair(query, query),))
    assert len(answers(task)) > 1
    assert len(find_explanations(task.demos)) > 1


def test_what_no_rule_does_has_no_explanation() -> None:
    grid = np.array([[1, 2, 0], [0, 1, 2], [2, 0, 1]], np.uint8)
    torn = np.array([[2, 1, 0], [0, 3, 4], [5, 0, 6]], np.uint8)
    assert find_explanations([Pair(grid, torn)]) == []


def test_two_colours_do_not_become_the_same_one() -> None:
    grid = np.array([[1, 2, 0], [0, 1, 2], [2, 2, 1]], np.uint8)
    apart, merged = (np.where(grid == 0, 0, became).astype(np.uint8) for became in (3 + grid, 3))
    assert TaskRule(colours=((1, 4), (2, 5))) in find_explanations([Pair(grid, apart)])
    assert not [rule for rule in find_explanations([Pair(grid, merged)]) if len(rule.colours) > 1]


def test_a_part_that_shows_nowhere_counts_with_every_value() -> None:
    """Where the inside is black in every demonstration, any recolouring of the inside would explain them."""
    grid = np.array([[1, 2, 3], [0, 0, 1], [0, 2, 2]], np.uint8)
    found = find_explanations([Pair(grid, np.rot90(grid).copy())])
    assert TaskRule(dihedral=1) in found
    assert {rule.recolour for rule in found} >= {("inner", colour) for colour in range(1, 10)}


def test_no_rule_stands_on_both_sides() -> None:
    train = load_tasks("rules", "training", max_tasks=100)
    held_out = load_tasks("rules", "evaluation", max_tasks=100)
    assert not {parse_rule_id(task.id) for task in train} & {parse_rule_id(task.id) for task in held_out}
    check_leakage(train, held_out)
    assert find_leakage(train, train).ids == tuple(task.id for task in train)
    with raises_code(LeakageError, "data.leakage", len(train)):
        check_leakage(train, train)


@pytest.mark.parametrize("kind", KINDS)
def test_every_single_part_has_rules_on_both_sides(kind: str) -> None:
    for subset in ("training", "evaluation"):
        found = draw_rule_tasks(f"rules:{kind}", subset, 6, 10)
        assert {combination(task) for task in found} == {frozenset([kind])}


def test_combinations_come_in_turn_and_only_those_asked_for() -> None:
    every = Counter(
        combination(task) for task in draw_rule_tasks("rules", "training", 6, 3 * len(COMBINATIONS))
    )
    assert every == dict.fromkeys(COMBINATIONS, 3)
    two = Counter(combination(t) for t in draw_rule_tasks("rules:shift, colours+dihedral", "training", 6, 10))
    assert two == {frozenset(["shift"]): 5, frozenset(["colours", "dihedral"]): 5}


@pytest.mark.parametrize("subset", ["training", "evaluation"])
def test_copying_the_input_is_never_right(subset: str) -> None:
    """Not even where it easily would be: on 3x3 grids few cells are inside, or stand alone."""
    for task in draw_rule_tasks("rules:recolour", subset, 3, 60):
        assert task.tests[0] != Pair(task.tests[0].input, task.tests[0].input)


def test_the_tasks_are_pinned_and_a_larger_set_begins_with_a_smaller_one() -> None:
    """A hash that changes here is a new family: give it a new VERSION."""
    found = load_tasks("rules", "training", max_tasks=50)
    assert found.hash == "4b0b4f351df848d92e800b7c6dbf8e95a6328fedef9476721a42d34fe9207454"
    assert (found.source, found.version) == ("rules", "rules-1")
    assert found.tasks == load_tasks("rules", "training", max_tasks=60).tasks[:50]


def test_a_shorter_side_keeps_the_tasks_that_fit() -> None:
    all_sizes = draw_rule_tasks("rules", "training", 6, 60)
    fitting = [task.id for task in all_sizes if task.max_side <= 4]
    assert 10 < len(fitting) < 50
    assert [task.id for task in draw_rule_tasks("rules", "training", 4, len(fitting))] == fitting
    assert {task.max_side for task in all_sizes} == {3, 4, 5, 6}


def test_a_rule_has_a_readable_name() -> None:
    rule = TaskRule(dihedral=3, shift=(-1, 1), colours=((1, 4), (4, 2)), recolour=("edge", 5))
    assert rule.id == "dihedral-3+shift-ur+colours-14.42+recolour-edge-5"
    assert parse_rule_id(f"000012-{rule.id}") == rule.id
    assert TaskRule(shift=(1, 0)).id == "shift-d."


def test_parts_that_do_not_exist_and_sides_too_small_are_refused() -> None:
    with raises_code(DataError, "data.unknown-rules", repr("colour"), "dihedral+colours"):
        load_tasks("rules:colour")
    with raises_code(DataError, "data.no-task-left", 3, "data.max_side", got="a largest side of 2"):
        load_tasks("rules", max_side=2)


def test_a_number_of_demonstrations_that_determines_no_rule_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "MOST_DRAWS", 50)
    with raises_code(DataError, "data.undetermined-rules", 1, 3):
        draw_rule_tasks("rules:colours", "training", 3, 1, demos=1)


def test_augmenting_the_rule_family_is_refused() -> None:
    with raises_code(ConfigError, "config.augmented-rules", "data.augmentations", repr("fresh")):
        with_settings(load(), data={"source": "rules", "augmentations": "fresh"})
    with raises_code(ConfigError, "config.augmented-rules", "evaluate.augmentations", 8):
        with_settings(load(), evaluate={"source": "rules:colours"})
    with_settings(load(), data={"source": "rules"}, evaluate={"source": "rules", "augmentations": 1})

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from etrm.data.augment import (
    Augmentation,
    dihedral,
    draw_augmentation,
    identity,
    list_augmentations,
    name_augmented,
    parse_name,
)
from etrm.errors import ArgumentError, DataError
from tests.errors import raises_code

grids = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=30), elements=st.integers(0, 9))
augmentations = st.builds(
    lambda number, colours: Augmentation(number, (0, *colours)),
    st.integers(0, 7),
    st.permutations(range(1, 10)),
)


@given(grids, augmentations)
def test_the_inverse_is_exact(grid: npt.NDArray[np.uint8], augmentation: Augmentation) -> None:
    there = augmentation.apply(grid)
    assert there.dtype == np.uint8
    assert there.shape == (grid.shape[::-1] if augmentation.swaps_sides else grid.shape)
    np.testing.assert_array_equal(augmentation.inverse(there), grid)
    np.testing.assert_array_equal(augmentation.apply(augmentation.inverse(grid)), grid)


@pytest.mark.parametrize("number", range(8))
def test_every_transform_is_a_symmetry_of_its_own(number: int) -> None:
    grid = np.arange(9, dtype=np.uint8).reshape(3, 3)
    plain = Augmentation(number, tuple(range(10)))
    np.testing.assert_array_equal(plain.inverse(plain.apply(grid)), grid)
    others = [dihedral(grid, other) for other in range(8) if other != number]
    assert not any((plain.apply(grid) == other).all() for other in others)


def test_the_numbering_is_the_published_one() -> None:
    grid = np.array([[1, 2], [3, 4]], dtype=np.uint8)
    expected = {
        0: [[1, 2], [3, 4]],
        1: [[2, 4], [1, 3]],
        2: [[4, 3], [2, 1]],
        3: [[3, 1], [4, 2]],
        4: [[2, 1], [4, 3]],
        5: [[3, 4], [1, 2]],
        6: [[1, 3], [2, 4]],
        7: [[4, 2], [3, 1]],
    }
    assert {number: dihedral(grid, number).tolist() for number in range(8)} == expected


@given(augmentations, st.sampled_from(["007bbfb7", "a|||b", "späße"]))
def test_names_carry_the_way_back(augmentation: Augmentation, task_id: str) -> None:
    assert Augmentation.parse(augmentation.name) == augmentation
    assert parse_name(name_augmented(task_id, augmentation)) == (task_id, augmentation)


def test_the_form_of_a_name() -> None:
    assert name_augmented("007bbfb7", identity()) == "007bbfb7|||t0|||0123456789"
    assert parse_name("007bbfb7") == ("007bbfb7", identity())


@pytest.mark.parametrize(
    "name", ["", "t8|||0123456789", "t0|||1023456789", "t0|||012", "x0|||0123456789", "t0"]
)
def test_a_bad_name_is_refused(name: str) -> None:
    with raises_code(DataError, "augment.unknown-name", repr(name)):
        Augmentation.parse(name)


def test_a_bad_augmentation_is_refused() -> None:
    with raises_code(ArgumentError, "augment.unknown-transform", 8):
        Augmentation(8, tuple(range(10)))
    with raises_code(ArgumentError, "augment.not-a-permutation", (1, 0, *range(2, 10))):
        Augmentation(0, (1, 0, *range(2, 10)))


def test_random_reaches_every_transform_and_keeps_the_background() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_augmentation(rng) for _ in range(400)]
    assert {a.dihedral for a in drawn} == set(range(8))
    assert {a.colours[1] for a in drawn} == set(range(1, 10))
    assert {a.colours[0] for a in drawn} == {0}


def test_fixed_are_distinct_stable_and_begin_with_the_identity() -> None:
    found = list_augmentations("007bbfb7", 50, 3)
    assert found[0] == identity()
    assert len(set(found)) == 50
    assert list_augmentations("007bbfb7", 8, 3) == found[:8]
    assert list_augmentations("007bbfb7", 8, 4) != found[:8]
    assert list_augmentations("00d62c1b", 8, 3) != found[:8]
    # Pinned: a puzzle table is only worth something while these stay.
    assert found[1].name == "t4|||0652948173"


def test_too_many_are_refused() -> None:
    with raises_code(ArgumentError, "augment.impossible-number", 0):
        list_augmentations("a", 0, 0)

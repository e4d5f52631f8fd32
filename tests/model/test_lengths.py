from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from etrm.model.forward_context import Shapes
from etrm.model.lengths import group_pairs, round_length, split_by_length


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_groups_by_length_hold_every_row_once_and_waste_little(lengths: list[int]) -> None:
    groups = group_pairs(lengths, Shapes.ALL, 1, 40)
    assert sorted(torch.cat([rows for rows, _ in groups]).tolist()) == list(range(len(lengths)))
    for rows, length in groups:
        members = [lengths[row] for row in rows]
        assert length == max(members)
        assert sum(members) >= 0.85 * length * len(members)


def test_equal_lengths_are_one_group_and_very_different_ones_are_not() -> None:
    def count(*lengths: int) -> int:
        return len(split_by_length(lengths))

    assert count(7, 7, 7) == 1
    assert count(10, 9) == 1  # 5 % of padding
    assert count(10, 2, 10) == 2


@given(st.integers(1, 2000))
def test_rounded_lengths_are_few_and_add_at_most_a_quarter(length: int) -> None:
    rounded = round_length(length)
    assert length <= rounded <= 1.25 * length or length == rounded
    assert round_length(rounded) == rounded
    assert rounded <= round_length(length + 1)
    assert round_length(length, most=1800) == min(rounded, 1800) or length > 1800


def test_a_doubling_has_four_rounded_lengths() -> None:
    assert sorted({round_length(length) for length in range(9, 65)}) == [
        *range(10, 17, 2),
        *range(20, 33, 4),
        40,
        48,
        56,
        64,
    ]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 12))
def test_groups_in_few_shapes_hold_every_pair_and_fill_the_last_with_the_shortest(
    lengths: list[int], samples: int
) -> None:
    groups = group_pairs(lengths, Shapes.FEW, samples, most=37)
    order = torch.cat([rows for rows, _ in groups]).tolist()
    assert sorted(order[: len(lengths)]) == list(range(len(lengths)))
    assert set(order[len(lengths) :]) <= {order[len(lengths) - 1]}
    assert {len(rows) for rows, _ in groups} == {-(-samples // 4)}
    for rows, length in groups:
        assert length == round_length(max(lengths[row] for row in rows.tolist()), 37)
    ((only, length),) = group_pairs(lengths, Shapes.ONE_GROUP, samples, most=37)
    assert only.tolist()[: len(lengths)] == order[: len(lengths)]
    assert set(only.tolist()[len(lengths) :]) <= {order[len(lengths) - 1]}
    assert len(only) == len(order)
    assert length == round_length(max(lengths), 37)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_aligned_groups_hold_every_pair_and_none_alone(lengths: list[int]) -> None:
    groups = group_pairs(lengths, Shapes.ALIGNED, samples=3, most=40)
    order = torch.cat([rows for rows, _ in groups]).tolist()
    assert sorted(order[: len(lengths)]) == list(range(len(lengths)))
    assert order[len(lengths) :] == ([0] if len(lengths) == 1 else [])
    for rows, length in groups:
        longest = max(lengths[row] for row in rows.tolist())
        assert length in range(longest, longest + 8)
        assert length % 8 == 0
        assert len(rows) > 1

"""Tensors in nested values, and the same values with other tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diagnostics.recording.tensors import is_dense, map_tensors, stored_values, tensors_in


class Named(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True)
class Frozen:
    first: Any
    second: Any


LEAVES = st.one_of(st.integers(-9, 9).map(torch.tensor), st.integers(), st.none(), st.text(max_size=2))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=2), inner, max_size=3),
        st.builds(Named, inner, inner),
        st.builds(Frozen, inner, inner),
    ),
    max_leaves=8,
)


def shape_of(value: Any) -> Any:
    """The value with a mark instead of each tensor."""
    return map_tensors(value, lambda _: "tensor")  # type: ignore[arg-type, return-value]


@given(VALUES)
def test_every_tensor_is_changed_and_nothing_else(value: Any) -> None:
    before = [float(each) for each in tensors_in(value)]
    changed = map_tensors(value, lambda each: each + 1)
    assert [float(each) for each in tensors_in(changed)] == [number + 1 for number in before]
    assert [float(each) for each in tensors_in(value)] == before
    assert shape_of(changed) == shape_of(value)
    assert type(changed) is type(value)


def test_named_tuples_and_dataclasses_keep_their_type() -> None:
    given = Named(torch.zeros(2), Frozen([torch.ones(1), 3], None))
    found = map_tensors(given, Tensor.numel)  # type: ignore[arg-type]
    assert found == Named(2, Frozen([1, 3], None))


SPARSE = {
    "coo": torch.Tensor.to_sparse_coo,
    "csr": torch.Tensor.to_sparse_csr,
    "csc": torch.Tensor.to_sparse_csc,
    "bsr": lambda tensor: tensor.to_sparse_bsr((2, 2)),
    "bsc": lambda tensor: tensor.to_sparse_bsc((2, 2)),
}


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta")
@pytest.mark.parametrize("layout", SPARSE)
def test_the_stored_values_of_a_sparse_tensor_are_those_of_the_dense_one(layout: str) -> None:
    dense = torch.eye(4) * torch.arange(1.0, 5)
    sparse = SPARSE[layout](dense)
    stored = stored_values(sparse)
    assert is_dense(dense)
    assert is_dense(stored)
    assert not is_dense(sparse)
    assert sorted(stored[stored != 0].tolist()) == [1.0, 2.0, 3.0, 4.0]


def test_tensors_without_one_number_per_element_are_not_dense() -> None:
    assert not is_dense(torch.empty(3, device="meta"))
    assert not is_dense(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged))

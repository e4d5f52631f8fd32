from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from etrm.checkpoints.inspect_tensors import compare_weights, inspect_weights
from etrm.checkpoints.weights import Weights
from etrm.errors import CheckpointError
from tests.errors import raises_code

floats = st.floats(-1e6, 1e6, width=32)
matrices = arrays.arrays(np.float32, arrays.array_shapes(max_dims=2, max_side=5), elements=floats)


def weights(tensors: dict[str, Tensor], **known: Any) -> Weights:
    return Weights(Path("w.safetensors"), "unknown", tensors, **known)


def only(tensor: Tensor) -> Any:
    (found,) = inspect_weights(weights({"inner.x": tensor})).tensors
    return found


@given(matrices)
def test_the_statistics_are_numpys(values: np.ndarray) -> None:
    found = only(torch.from_numpy(values))
    wide = values.astype(np.float64)
    expected = wide.mean(), wide.std(), wide.min(), wide.max(), np.sqrt((wide**2).sum())
    np.testing.assert_allclose(
        (found.mean, found.std, found.min, found.max, found.norm), expected, rtol=1e-9, atol=1e-9
    )
    assert (found.shape, found.dtype, found.non_finite) == (values.shape, "float32", 0)


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    found = only(torch.tensor([1.0, float("nan"), 3.0, float("inf"), -float("inf")]))
    assert (found.non_finite, found.mean, found.max) == (3, 2.0, 3.0)
    nothing = only(torch.tensor([float("nan")]))
    assert (nothing.non_finite, nothing.mean, nothing.norm) == (1, None, None)
    assert only(torch.zeros(0, 3)).mean is None
    json.dumps(asdict(nothing), allow_nan=False)


def test_totals_are_by_part_and_over_all() -> None:
    tensors = {
        "_orig_mod.model.inner.lm_head.weight": torch.zeros(3, 2),
        "model.encoder.x": torch.zeros(4, dtype=torch.bfloat16),
        "puzzle_table.weights": torch.full((5, 1), float("nan")),
        "strange": torch.zeros(()),
    }
    totals = inspect_weights(weights(tensors)).totals
    assert {part: (t.tensors, t.values, t.bytes, t.non_finite) for part, t in totals.items()} == {
        "core": (1, 6, 24, 0),
        "encoder": (1, 4, 8, 0),
        "puzzle table": (1, 5, 20, 5),
        "other": (1, 1, 4, 0),
        "all": (4, 16, 56, 5),
    }


# -- two of them --------------------------------------------------------------------------------------


@given(matrices, st.integers(0, 30))
def test_differences_are_numpys_and_symmetric(values: np.ndarray, shift: int) -> None:
    other = values + np.float32(shift)
    one, two = weights({"a": torch.from_numpy(values)}), weights({"module.a": torch.from_numpy(other)})
    there, back = compare_weights(one, two), compare_weights(two, one)
    difference = np.abs(values.astype(np.float64) - other.astype(np.float64))
    assert there.tensors[0].largest == back.tensors[0].largest == pytest.approx(difference.max())
    assert there.tensors[0].mean == pytest.approx(difference.mean())
    assert there.equal is back.equal is (values.tobytes() == other.tobytes())  # bit for bit: -0.0 is not 0.0


def test_a_file_equals_itself_under_any_names() -> None:
    tensors = {"model.inner.H_init": torch.tensor([1.0, float("nan")]), "encoder.x": torch.tensor(True)}
    renamed = {"_orig_mod." + name: tensor for name, tensor in tensors.items()}
    found = compare_weights(weights(tensors), weights(renamed))
    assert found.equal
    assert (found.matched, found.total) == (2, 2)
    assert found.settings is None


@pytest.mark.parametrize(
    ("other", "status", "largest"),
    [
        (torch.tensor([1.0, 2.5]), "different", 0.5),
        (torch.tensor([1.0, 2.0], dtype=torch.float64), "other dtype", 0.0),
        (torch.tensor([[1.0, 2.0]]), "other shape", None),
        (torch.tensor([float("nan"), 5.0]), "different", 3.0),
        (torch.tensor([float("nan"), float("inf")]), "different", None),
    ],
)
def test_what_differs_is_named(other: Tensor, status: str, largest: float | None) -> None:
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.zeros(1)}
    found = compare_weights(weights(one), weights({"a": other, "c": torch.zeros(1)}))
    (tensor,) = found.tensors
    assert (tensor.name, tensor.status, tensor.largest) == ("a", status, largest)
    assert (found.only_first, found.only_second) == (("b",), ("c",))
    assert (found.matched, found.total, found.equal) == (0, 3, False)


def test_settings_that_differ_make_two_checkpoints_different() -> None:
    one = weights({"a": torch.zeros(1)}, settings={"H_cycles": 3, "halt": {"max_steps": 4}, "old": 1})
    two = replace(one, settings={"H_cycles": 3, "halt": {"max_steps": 8}})
    found = compare_weights(one, two)
    assert found.settings == {"halt.max_steps": (4, 8), "old": (1, None)}
    assert found.matched == found.total
    assert not found.equal
    assert compare_weights(one, one).equal


def test_two_names_of_one_tensor_are_refused() -> None:
    twice = weights({"inner.x": torch.zeros(1), "model.inner.x": torch.zeros(1)})
    with raises_code(CheckpointError, "checkpoint.duplicate-tensor", "core.x") as caught:
        compare_weights(twice, twice)
    assert caught.value.got == "inner.x and model.inner.x"

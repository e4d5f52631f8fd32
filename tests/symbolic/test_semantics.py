"""The t-norms and quantifiers against their formulas, in plain Python numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from etrm.config.symbolic import TNorm
from etrm.symbolic.semantics import Semantics, paint

TRUTHS = st.floats(0, 1, width=32)
NORMS: dict[TNorm, tuple[Callable[[float, float], float], ...]] = {
    "product": (lambda p, q: p * q, lambda p, q: p + q - p * q, lambda p, q: 1 - p + p * q),
    "goedel": (min, max, lambda p, q: max(1 - p, q)),
    "lukasiewicz": (
        lambda p, q: max(0.0, p + q - 1),
        lambda p, q: min(1.0, p + q),
        lambda p, q: min(1.0, 1 - p + q),
    ),
}


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(TRUTHS, TRUTHS)
@pytest.mark.parametrize("tnorm", NORMS)
def test_connectives(tnorm: TNorm, p: float, q: float) -> None:
    meaning = Semantics(tnorm)
    for function, expected in zip(
        (meaning.conjunction, meaning.disjunction, meaning.implication), NORMS[tnorm], strict=True
    ):
        assert function(tensor(p), tensor(q)).item() == pytest.approx(expected(p, q), abs=1e-12)
    assert meaning.negation(tensor(p)).item() == 1 - p


@given(st.lists(TRUTHS, min_size=1, max_size=6), st.lists(TRUTHS, max_size=3), st.floats(1, 9))
def test_quantifiers_count_the_cells_that_exist(
    truths: list[float], elsewhere: list[float], exponent: float
) -> None:
    values = tensor(*truths, *elsewhere)
    mask = torch.arange(len(values)) < len(truths)
    expected = {
        "product": (math.prod(truths), 1 - math.prod(1 - p for p in truths)),
        "minimum": (min(truths), max(truths)),
        "mean": (
            1 - (sum((1 - p) ** exponent for p in truths) / len(truths)) ** (1 / exponent),
            (sum(p**exponent for p in truths) / len(truths)) ** (1 / exponent),
        ),
    }
    for kind, (every, some) in expected.items():
        meaning = Semantics(quantifier=kind, exponent=exponent)  # type: ignore[arg-type]
        assert meaning.forall(values, mask).item() == pytest.approx(every, abs=1e-9)
        assert meaning.exists(values, mask).item() == pytest.approx(some, abs=1e-9)


@pytest.mark.parametrize("quantifier", ["product", "minimum", "mean"])
def test_of_no_cell_everything_is_true_and_nothing_exists(quantifier: str) -> None:
    meaning = Semantics(quantifier=quantifier)  # type: ignore[arg-type]
    nothing = torch.zeros(3, dtype=torch.bool)
    assert meaning.forall(tensor(0, 0.5, 1), nothing).item() == 1
    assert meaning.exists(tensor(0, 0.5, 1), nothing).item() == 0


def test_over_100_cells_a_product_loses_its_gradient_and_a_mean_keeps_it() -> None:
    found = {}
    for kind in ("product", "mean"):
        truths = torch.full((100,), 0.9, dtype=torch.float64, requires_grad=True)
        every = Semantics(quantifier=kind).forall(truths, torch.ones(100, dtype=torch.bool))  # type: ignore[arg-type]
        every.backward()
        assert truths.grad is not None
        found[kind] = every.item(), truths.grad[0].item()
    assert found["product"] == pytest.approx((0.9**100, 0.9**99))
    assert found["mean"] == pytest.approx((0.9, 0.01))


@pytest.mark.parametrize("extreme", [0.0, 1.0, 1e-12])
def test_gradients_are_finite_at_the_ends(extreme: float) -> None:
    for quantifier in ("product", "minimum", "mean"):
        for over in ("forall", "exists"):
            truths = torch.full((4,), extreme, dtype=torch.float32, requires_grad=True)
            meaning = Semantics(quantifier=quantifier)  # type: ignore[arg-type]
            getattr(meaning, over)(truths, torch.ones(4, dtype=torch.bool)).backward()
            assert truths.grad is not None
            assert truths.grad.isfinite().all()


@given(TRUTHS)
def test_painting_mixes_distributions_and_not_colour_numbers(guard: float) -> None:
    value, previous = tensor(1, 0, 0), tensor(0, 0, 1)
    assert paint(tensor(guard)[0], value, previous).tolist() == [guard, 0, 1 - guard]

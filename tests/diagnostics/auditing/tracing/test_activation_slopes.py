"""Slopes of activation functions, against autograd."""

from __future__ import annotations

import pytest
import torch

from diagnostics.auditing.tracing.activation_slopes import SLOPES, slope_of


@pytest.mark.parametrize("name", SLOPES)
def test_the_slope_is_the_derivative_over_its_largest(name: str) -> None:
    x = torch.linspace(-6, 6, 1001, requires_grad=True)
    result = getattr(torch, name)(x)
    (derivative,) = torch.autograd.grad(result.sum(), x)
    expected = float((derivative / derivative.max()).mean())
    assert slope_of(name, x, result) == pytest.approx(expected, abs=1e-4)


def test_few_elements_constants_and_other_functions_have_none() -> None:
    x = torch.randn(100, requires_grad=True)
    assert slope_of("exp", x, x.exp()) is None
    assert slope_of("tanh", x[:10], x[:10].tanh()) is None
    assert slope_of("tanh", x, x.detach().tanh()) is None

"""Weights without gradient on which the loss depends are found; weights that do nothing on this batch are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etrm.investigation.own_model.hypotheses.missing_slopes import check_missing_gradients
from etrm.investigation.own_model.model_factory import ModelFactory
from tests.investigation.own_model.toy_adapter import Toy, ZeroHead, factory, with_model


def passes(made: ModelFactory) -> bool | None:
    [check] = check_missing_gradients(made, 0)
    return check.row.passed


class HalfDetached(Toy):
    def pass_on(self, context: Tensor) -> Tensor:
        return torch.cat([context[:, :4].detach(), context[:, 4:]], dim=-1)


class Filtered(HalfDetached):
    """The detached half scales, and the other half is added."""

    def pass_on(self, context: Tensor) -> Tensor:
        scale, shift = context.chunk(2, dim=-1)
        return ((1 + scale.data) * torch.ones_like(shift) + shift).repeat(1, 2)


@pytest.mark.parametrize("kind", [HalfDetached, Filtered])
def test_a_part_of_the_context_that_is_detached_is_found(kind: type[Toy]) -> None:
    [check] = check_missing_gradients(with_model(kind), 0)
    assert check.row.passed is False
    assert check.row.note == "encoder.0.weight, encoder.0.bias"
    for names in (("encoder",), ("encoder.0.weight", "encoder.0.bias")):
        assert passes(with_model(kind, approximate=names)) is not False


class Idle(Toy):
    """Units below and at the kink of a ReLU, pruned units, rows of an embedding that no query takes, and a maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.Linear(8, 8)
        with torch.no_grad():
            self.units.bias[:3] = -5.0
            self.units.weight[3:5] = 0.0
            self.units.bias[3:5] = 0.0
        self.rows = nn.Embedding(50, 8)
        self.mask = torch.tensor([0.0, 1.0]).repeat(4)

    def pass_on(self, context: Tensor) -> Tensor:
        kinds = (context[:, 0] > 0).long()
        units = torch.relu(self.units(context)) * self.mask
        return torch.maximum(units, context) + self.rows(kinds)


@pytest.mark.parametrize("kind", [Toy, ZeroHead, Idle])
def test_weights_that_do_nothing_are_healthy(kind: type[Toy]) -> None:
    assert passes(with_model(kind)) is True


def test_a_random_step_is_healthy() -> None:
    def step(model: nn.Module, rows: dict[str, Any]) -> Tensor:
        noisy = rows["demos"] + 0.1 * torch.randn_like(rows["demos"])
        return torch.relu(model(noisy, rows["query"])).square().mean()

    assert passes(factory(step=step)) is True

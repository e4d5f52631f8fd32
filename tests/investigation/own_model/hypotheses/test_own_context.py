"""H3 of an own model: a context that is lost, shared, shifted or old is found by the row about it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from etrm.investigation.own_model.hypotheses.own_context import OwnContext
from etrm.investigation.own_model.model_factory import ModelFactory
from tests.investigation.own_model.toy_adapter import DEMOS, LABELS, Toy, factory, with_model

H3 = OwnContext()


def failed(made: ModelFactory) -> set[str]:
    return {check.row.code for check in H3.inspect(made, 0).failed}


def test_a_healthy_context_passes_every_row() -> None:
    assert failed(factory()) == set()


class Faint(Toy):
    """Contexts change the loss of a row by a thousandth, and by less where one happens to be like that of another."""

    def pass_on(self, context: Tensor) -> Tensor:
        return torch.cat([4e-3 * context[:, :2], torch.zeros_like(context[:, 2:])], dim=-1)


@pytest.mark.parametrize("seed", [0, 1, 4, 5])
def test_a_row_whose_loss_hardly_changes_by_chance_is_healthy(seed: int) -> None:
    rows = {check.row.code for check in H3.inspect(with_model(Faint), seed).failed}
    assert not rows & {"own.context-rows", "own.demonstration-loss"}


class Fitted(Toy):
    """Some rows are answered with certainty, whatever their context: their loss is 0."""

    def forward(self, demos: Tensor, queries: Tensor) -> Tensor:
        logits = super().forward(demos, queries)
        known = torch.isclose(demos[:, :1], DEMOS[:3, 0]).any(-1)
        return logits + 1e4 * known[:, None] * one_hot(_labels_of(demos), 4)


def _labels_of(demos: Tensor) -> Tensor:
    return torch.stack([LABELS[(one == DEMOS).all(-1).nonzero()[0, 0]] for one in demos])


def test_rows_whose_loss_is_saturated_are_not_what_is_edited() -> None:
    assert "own.context-rows" not in failed(with_model(Fitted))


class Lost(Toy):
    def pass_on(self, context: Tensor) -> Tensor:
        return 0 * context


class Shifted(Toy):
    def pass_on(self, context: Tensor) -> Tensor:
        return context.roll(1, 0)


class Averaged(Toy):
    def pass_on(self, context: Tensor) -> Tensor:
        return context.mean(0, keepdim=True).expand_as(context)


class Kept(Toy):
    """The encoder returns the mean of the contexts of this batch and the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Tensor | None = None
        self.encoder.register_forward_hook(self.blend)

    def blend(self, module: object, given: object, context: Tensor) -> Tensor:
        before, self.before = self.before, context.detach()
        return context if before is None else (context + before) / 2


class Blind(Toy):
    """The encoder reads the number of the row instead of its demonstrations."""

    def forward(self, demos: Tensor, queries: Tensor) -> Tensor:
        return super().forward(torch.arange(len(demos)).float()[:, None].expand_as(demos), queries)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (Lost, "own.context-use"),
        (Lost, "own.context-received"),
        (Shifted, "own.context-rows"),
        (Shifted, "own.demonstration-loss"),
        (Averaged, "own.context-rows"),
        (Kept, "own.old-context"),
        (Blind, "own.demonstration-use"),
    ],
)
def test_each_fault_fails_its_row(kind: type[Toy], code: str) -> None:
    assert code in failed(with_model(kind))


def test_it_needs_a_context_by_row() -> None:
    assert not H3.find_missing(factory().build(0))
    assert H3.find_missing(factory(context_module="").build(0))


def test_every_control_is_found() -> None:
    faults = H3.list_faults(factory().build(0))
    assert [fault.name for fault in faults] == [
        "same-context",
        "context-not-finite",
        "context-of-another-row",
    ]
    assert all(failed(fault.apply(factory())) for fault in faults)


def test_without_losses_of_rows_a_shift_is_found_by_the_demonstrations() -> None:
    [shift] = [
        fault for fault in H3.list_faults(factory().build(0)) if fault.name == "context-of-another-row"
    ]
    assert "own.demonstration-rows" in failed(shift.apply(factory(sample_losses=None)))


def test_predictions_that_do_not_depend_on_the_demonstrations_are_found() -> None:
    """Numbers decide; classes may stay the same by chance."""

    def blind(model: Any, rows: dict[str, Any]) -> Tensor:
        return model(torch.zeros_like(rows["demos"]), rows["query"])

    assert failed(factory(predict=blind)) == {"own.demonstration-predictions"}
    assert failed(factory(predict=lambda model, rows: model(rows["demos"], rows["query"]))) == set()
    assert failed(factory(predict=lambda model, rows: blind(model, rows).argmax(-1))) == set()

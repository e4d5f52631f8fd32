"""H3 of an own model: a context that is lost, shared, shifted or old is found by the row about it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from etrm.investigation.own_model.hypotheses.own_context import OwnContext
from etrm.investigation.own_model.model_factory import ModelFactory
from tests.investigation.own_model.toy_adapter import Toy, factory, with_model

H3 = OwnContext()


def failed(made: ModelFactory) -> set[str]:
    return {check.row.code for check in H3.inspect(made, 0).failed}


def test_a_healthy_context_passes_every_row() -> None:
    assert failed(factory()) == set()


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

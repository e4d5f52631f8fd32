"""H2 of an own model: gradients that are cut, negated, kept or never applied are found by the row about them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from etrm.investigation.own_model.check_adapter import check_adapter
from etrm.investigation.own_model.hypotheses.own_gradients import OwnGradients
from etrm.investigation.own_model.investigate_model import investigate_model
from etrm.investigation.own_model.model_factory import ModelFactory
from etrm.investigation.own_model.model_under_test import ModelUnderTest
from etrm.investigation.records import Verdict
from tests.investigation.own_model.toy_adapter import (
    Toy,
    ZeroHead,
    factory,
    losses,
    make_toy,
    read_samples,
    with_model,
)

H2 = OwnGradients()


def failed(made: ModelFactory) -> set[str]:
    return {check.row.code for check in H2.inspect(made, 0).failed}


def test_a_healthy_model_passes_every_row() -> None:
    found = H2.inspect(factory(), 0)
    assert found.failed == []
    assert {check.row.item for check in found.checks if check.row.code == "own.slope-ratio"} == {
        "encoder",
        "decoder",
    }


def test_a_last_layer_that_starts_at_zero_is_healthy() -> None:
    assert H2.inspect(with_model(ZeroHead), 0).failed == []


class Sparse(Toy):
    """Its table has sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(2, 3, sparse=True)

    def forward(self, demos: Tensor, queries: Tensor) -> Tensor:
        return super().forward(demos, queries + self.table((queries[:, 0] > 0).long()))


def test_a_sparse_gradient_is_healthy() -> None:
    made = with_model(Sparse, optimizer=lambda model: torch.optim.SGD(model.parameters(), 0.1))
    assert H2.inspect(made, 0).failed == []


@pytest.mark.parametrize("first", [0, 1])
def test_an_update_that_accumulates_gradients_is_healthy(first: int) -> None:
    def make(seed: int) -> ModelUnderTest:
        calls = itertools.count()

        def update(model: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
            loss.backward()
            if next(calls) % 2 == first:
                optimizer.step()
                optimizer.zero_grad()

        return replace(make_toy(seed), update=update)

    assert H2.inspect(ModelFactory(make, "toy"), 0).failed == []


def test_a_batch_of_one_row_has_no_control_by_other_rows() -> None:
    one = factory(batch=lambda index: read_samples(torch.tensor([index % 64])))
    assert [fault.name for fault in H2.list_faults(one.build(0))] == ["frozen-part", "detached-context"]


class Spare(Toy):
    """It has an embedding that nothing uses, as GPT-2 has where it is given embedded inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder.register_module("spare", torch.nn.Embedding(3, 4))


def test_a_module_that_nothing_uses_is_mentioned_and_decides_nothing() -> None:
    found = H2.inspect(with_model(Spare), 0)
    assert found.failed == []
    [row] = [check.row for check in found.checks if check.row.code == "own.unused-modules"]
    assert (row.treatment, row.note) == (1.0, "decoder.spare")


def test_a_context_module_that_is_never_called_is_a_fault() -> None:
    class Uncalled(Toy):
        def forward(self, demos: Tensor, queries: Tensor) -> Tensor:
            return self.decoder(torch.cat([demos, demos, queries], dim=-1))

    class OneLayer(Uncalled):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = torch.nn.Linear(4, 8)  # type: ignore[assignment]

    assert "own.gradient-finding" in failed(with_model(OneLayer))


class Cut(Toy):
    def pass_on(self, context: Tensor) -> Tensor:
        return context.detach()


class Partly(Toy):
    def pass_on(self, context: Tensor) -> Tensor:
        return torch.cat([context[:2], context[2:].detach()])


class Negated(Toy):
    def pass_on(self, context: Tensor) -> Tensor:
        return 2 * context.detach() - context


class Cached(Toy):
    """The first context is kept, without its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = None

    def pass_on(self, context: Tensor) -> Tensor:
        fresh = context if self.kept is None else self.kept
        self.kept = fresh.detach()
        return fresh


class Idle(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.encoder.requires_grad_(False)


def never(model: Any, optimizer: Any, loss: Tensor) -> None:
    loss.backward()
    optimizer.zero_grad()


def keep_gradients(model: Any, optimizer: Any, loss: Tensor) -> None:
    loss.backward()
    optimizer.step()


def uphill(model: Any) -> Any:
    return torch.optim.Adam(model.parameters(), 1e-2, maximize=True)


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (with_model(Cut), "own.coverage"),
        (with_model(Partly), "own.coverage"),
        (with_model(Cached), "own.coverage"),
        (with_model(Negated), "own.slope-ratio"),
        (with_model(Idle), "own.frozen-tensors"),
        (factory(step=lambda model, rows: losses(model, rows).mean() * math.nan), "own.loss-not-finite"),
        (factory(update=never), "own.gradient-finding"),
        (factory(update=keep_gradients), "own.optimizer-gradient"),
        (factory(optimizer=uphill), "own.first-update"),
        (factory(step=lambda model, rows: losses(model, rows).mean().detach()), "own.loss-without-graph"),
        (
            factory(optimizer=lambda model: torch.optim.Adam(model.decoder.parameters(), 1e-2)),
            "own.gradient-finding",
        ),
    ],
)
def test_each_fault_fails_its_row(made: ModelFactory, code: str) -> None:
    assert code in failed(made)


def test_a_gradient_that_is_approximate_on_purpose_is_not_compared_with_the_slope() -> None:
    for name in ("encoder", "encoder.0.weight"):
        made = with_model(Negated, approximate=(name,))
        check_adapter(made)
        assert failed(made) & {"own.slope-ratio"} == set()


def test_a_context_that_nothing_reads_is_explained_by_the_interface() -> None:
    class Unread(Toy):
        def pass_on(self, context: Tensor) -> Tensor:
            return torch.zeros_like(context)

    assert H2.inspect(with_model(Unread), 0).explained_by == "H3"
    assert H2.inspect(with_model(Partly), 0).explained_by is None


class Relu(Toy):
    """Its units can die."""

    def pass_on(self, context: Tensor) -> Tensor:
        return torch.relu(context)


def with_rate(rate: float) -> ModelFactory:
    return with_model(Relu, optimizer=lambda model: torch.optim.SGD(model.parameters(), rate))


def test_gradients_that_end_after_a_too_large_update_are_explained_by_the_dynamics() -> None:
    found = H2.inspect(with_rate(1e4), 0)
    assert found.failed
    assert found.explained_by == "H4"
    assert H2.inspect(with_model(Cut), 0).explained_by != "H4"


def test_a_loss_that_is_not_finite_later_is_explained_by_the_dynamics() -> None:
    """An update that overflows ends the loss at the second step; one that is not finite from the start does not."""
    overflows = H2.inspect(with_rate(1e38), 0)
    assert "own.loss-not-finite" in {check.row.code for check in overflows.failed}
    assert overflows.explained_by == "H4"
    nowhere = factory(step=lambda model, rows: losses(model, rows).mean() * math.nan)
    assert H2.inspect(nowhere, 0).explained_by is None


def test_every_control_is_found() -> None:
    faults = H2.list_faults(factory().build(0))
    assert [fault.name for fault in faults] == ["frozen-part", "detached-context", "partly-detached-context"]
    assert all(failed(fault.apply(factory())) for fault in faults)


def test_a_tensor_that_is_constant_on_purpose_is_named_as_frozen() -> None:
    class Masked(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.mask = torch.nn.Parameter(torch.ones(8), requires_grad=False)

        def pass_on(self, context: Tensor) -> Tensor:
            return context * self.mask

    assert failed(with_model(Masked)) == {"own.frozen-tensors"}
    named = with_model(Masked, frozen=("mask",))
    check_adapter(named)
    assert failed(named) == set()


def test_a_control_that_the_code_refuses_is_made_from_the_healthy_model(tmp_path: Path) -> None:
    """A step that calls ``autograd.grad`` itself raises where the injected fault freezes a part."""

    def step(model: torch.nn.Module, rows: dict[str, Any]) -> Tensor:
        loss = losses(model, rows).mean()
        if torch.is_grad_enabled():
            torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        return loss

    result = investigate_model(factory(step=step).make, tmp_path, hypotheses=("H2",), seeds=1)
    [control] = [one for one in result.hypotheses["H2"].controls if one.name == "frozen-part"]
    assert control.behaved
    assert "refuses" in control.what
    assert result.hypotheses["H2"].verdict is Verdict.INVALIDATED


def test_coverage_is_a_curve_of_every_step() -> None:
    curves = {curve.label: curve for curve in H2.inspect(with_model(Partly), 0).curves}
    assert set(curves["encoder"].y) == {0.25}
    assert len(curves["decoder"].x) == 20

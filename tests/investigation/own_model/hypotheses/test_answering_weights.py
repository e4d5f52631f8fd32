"""Whether predict answers with the trained weights: a stale copy is found, and a moving average is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from etrm.investigation.own_model.hypotheses.answering_weights import (
    STALE_COPY,
    check_answering_weights,
    loss_responds,
)
from etrm.investigation.own_model.model_factory import ModelFactory
from etrm.investigation.own_model.model_under_test import ModelUnderTest
from tests.investigation.own_model.toy_adapter import Toy, factory, losses, make_toy, with_model


def answer(model: nn.Module, rows: dict[str, Any]) -> Tensor:
    return model(rows["demos"], rows["query"]).argmax(-1)


def average_into(copied: nn.Module, model: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for mean, weight in zip(copied.parameters(), model.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)


def with_copy(change: Callable[[ModelUnderTest, nn.Module], ModelUnderTest]) -> ModelFactory:
    """The toy whose predictions are those of a copy that was made at the start."""

    def make(seed: int) -> ModelUnderTest:
        subject = make_toy(seed)
        copied = copy.deepcopy(subject.model)
        return change(replace(subject, predict=lambda model, rows: answer(copied, rows)), copied)

    return ModelFactory(make, "toy")


def averaged_in_update(decay: float, every: int = 1) -> ModelFactory:
    def change(subject: ModelUnderTest, copied: nn.Module) -> ModelUnderTest:
        done: list[int] = []

        def update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            done.append(1)
            if len(done) % every == 0:
                average_into(copied, model, decay)

        return replace(subject, update=update)

    return with_copy(change)


def averaged_by_hook(subject: ModelUnderTest, copied: nn.Module) -> ModelUnderTest:
    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(model.parameters(), 1e-7)
        optimizer.register_step_post_hook(lambda *_: average_into(copied, model, 0.9999))
        return optimizer

    return replace(subject, optimizer=make_optimizer)


def averaged_in_step(subject: ModelUnderTest, copied: nn.Module) -> ModelUnderTest:
    def step(model: nn.Module, rows: dict[str, Any]) -> Tensor:
        average_into(copied, model, 0.999)
        return losses(model, rows).mean()

    return replace(subject, step=step)


def test_a_copy_that_no_step_updates_is_found() -> None:
    stale = with_copy(lambda subject, copied: subject)
    initial = Toy()
    for made in (stale, factory(predict=lambda model, rows: answer(initial, rows))):
        found = check_answering_weights(made, 0)
        assert found.failed
        assert "after 18 training steps" in found.words


def test_averages_that_training_updates_are_no_fault() -> None:
    healthy = (
        factory(),
        averaged_in_update(0.9),
        averaged_in_update(0.9999),
        averaged_in_update(0.999, every=10),
        with_copy(averaged_by_hook),
        with_copy(averaged_in_step),
    )
    assert [check_answering_weights(made, seed).row.passed for made in healthy for seed in (0, 1)] == [
        True
    ] * 12


def test_the_control_is_found_where_an_average_answers() -> None:
    """The weights of an average are no parameters of the model, so that the control changes predictions instead."""
    for made in (factory(), averaged_in_update(0.9)):
        assert check_answering_weights(STALE_COPY.apply(made), 0).failed


def test_nothing_is_decided_where_the_loss_does_not_change_or_no_optimiser_is_called() -> None:
    class Constant(Toy):
        def forward(self, demos: Tensor, queries: Tensor) -> Tensor:
            return 0.0 * super().forward(demos, queries)

    constant = with_model(Constant)
    assert not loss_responds(constant.build(0))
    assert check_answering_weights(constant, 0).row.passed is None
    initial = Toy()
    idle = factory(update=lambda *_: None, predict=lambda model, rows: answer(initial, rows))
    assert check_answering_weights(idle, 0).row.passed is None

"""A model under test in training: each step starts from random numbers that depend on the seed and the step alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from diagnostics.testing.trials import untouched
from etrm.investigation.own_model.adapter_errors import EXAMPLE_SCHEDULE, EXAMPLE_STEP, call_adapter
from etrm.investigation.own_model.adapter_functions import compute_loss, make_optimizers
from etrm.investigation.own_model.batch_rows import join_batches
from etrm.investigation.own_model.model_factory import ModelFactory, seed_everything
from etrm.investigation.own_model.model_under_test import ModelUnderTest, RowBatch

INSPECTED_STEPS = 20
"""Training steps of an inspection: with fewer, some rules of the toolkit do not run, and a gate of the context that
starts at zero does not open."""


@dataclass(frozen=True)
class TrainingChange:
    """One change of how a model is trained.

    Attributes:
        name: stable name of the change.
        what: the change in words.
        rate: factor of every learning rate.
        context_rate: further factor of the rates of the context module.
        clip_norm: largest norm of the gradient, in addition to the user's own clipping; None for none.
        scheduled: whether the user's schedule is used.
        clipped: whether the user's ``clip_norm`` is used.
        joined: number of batches that are joined to one.
    """

    name: str
    what: str
    rate: float = 1.0
    context_rate: float = 1.0
    clip_norm: float | None = None
    scheduled: bool = True
    clipped: bool = True
    joined: int = 1


UNCHANGED = TrainingChange("unchanged", "unchanged")


class TrainingTrial:
    """A fresh model under test with its optimisers and schedulers."""

    def __init__(self, factory: ModelFactory, seed: int, change: TrainingChange = UNCHANGED) -> None:
        """Build the model and change how it is trained.

        Raises:
            ExtensionError: a function of the adapter raises or returns something else.
        """
        self.seed, self.change = seed, change
        self.subject: ModelUnderTest = factory.build(seed)
        self.model = self.subject.model
        self.optimizers = make_optimizers(self.subject)
        self._own = len(self.optimizers)  # an arm may add optimisers of its own
        for optimizer in self.optimizers:
            self._change_rates(optimizer)
            if change.clip_norm is not None:
                optimizer.register_step_pre_hook(_make_clipping(change.clip_norm))
        schedule = self.subject.schedule if change.scheduled else None
        self.schedulers = [schedule(optimizer) for optimizer in self.optimizers] if schedule else []

    def batch(self, number: int) -> RowBatch:
        """The training batch of a step; several joined where the change says so."""
        joined = self.change.joined
        batches = [self.subject.batch(number * joined + part) for part in range(joined)]
        return batches[0] if joined == 1 else join_batches(batches)

    def loss(self, number: int, batch: RowBatch) -> Tensor:
        """The loss of a step, with its graph."""
        seed_everything(self.seed, number, 1)
        return compute_loss(self.subject, batch)

    def step(self, number: int, batch: RowBatch) -> float:
        """One training step; the loss before the update."""
        loss = self.loss(number, batch)
        self.update(loss)
        return float(loss.detach())

    def update(self, loss: Tensor) -> None:
        """Backward, clipping, step, zero_grad, as in the user's program; nothing for a loss without a graph."""
        if loss.requires_grad:
            if self.subject.update is not None:
                own = self.optimizers[: self._own]
                self.subject.update(self.model, own[0] if len(own) == 1 else own, loss)
                for added in self.optimizers[self._own :]:
                    added.step()
                    added.zero_grad()
            else:
                self._update_as_usual(loss)
        self.advance_schedule(1)

    def advance_schedule(self, steps: int) -> None:
        """Advance the schedulers by some steps.

        Raises:
            ExtensionError: a scheduler raises, as where it ends before the run.
        """
        with call_adapter(
            "adapter.schedule-step-raised",
            "step() of the scheduler raised an exception",
            expected="a scheduler whose step() takes no argument and which lasts as long as the runs",
            example=EXAMPLE_SCHEDULE,
        ):
            for _ in range(steps):
                for scheduler in self.schedulers:
                    scheduler.step()

    @torch.no_grad()
    def measure(self, numbers: Sequence[int]) -> float:
        """The mean loss of some batches, without training; random numbers are the same at every call."""
        losses = []
        with untouched(self.model):
            for number in numbers:
                seed_everything(self.seed, number, 2)
                losses.append(float(compute_loss(self.subject, self.batch(number)).detach()))
        return sum(losses) / len(losses)

    def _update_as_usual(self, loss: Tensor) -> None:
        with call_adapter(
            "adapter.backward-raised",
            "the backward pass of the loss raised an exception",
            expected="a loss whose graph is whole; step must not call backward()",
            example=EXAMPLE_STEP,
        ):
            loss.backward()
        if self.subject.clip_norm is not None and self.change.clipped:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.subject.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def _change_rates(self, optimizer: Optimizer) -> None:
        change = self.change
        for group in optimizer.param_groups:
            group["lr"] *= change.rate
        if change.context_rate == 1.0 or not self.subject.context_module:
            return
        own = {id(p) for p in self.model.get_submodule(self.subject.context_module).parameters()}
        for group in list(optimizer.param_groups):
            apart = [p for p in group["params"] if id(p) in own]
            if apart:
                group["params"] = [p for p in group["params"] if id(p) not in own]
                rate = group["lr"] * change.context_rate
                optimizer.param_groups.append({**group, "params": apart, "lr": rate})


def _make_clipping(norm: float):  # type: ignore[no-untyped-def]  # a hook of torch, which annotates it
    def clip(optimizer: Optimizer, args: object, kwargs: object) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, norm)

    return clip

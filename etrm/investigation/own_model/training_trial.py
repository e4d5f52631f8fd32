"""A model under test in training: each step starts from random numbers that depend on the seed and the step alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from diagnostics.testing.trials import untouched
from etrm.investigation.own_model.adapter_errors import (
    EXAMPLE_SCHEDULE,
    EXAMPLE_STEP,
    EXAMPLE_UPDATE,
    call_adapter,
)
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
        part = self.subject.context_module
        context = list(self.model.get_submodule(part).parameters()) if part else []
        for optimizer in self.optimizers:
            if change.rate != 1 or change.context_rate != 1:
                _ScaledRates(optimizer, change, context)
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
        with call_adapter(
            "adapter.optimizer-step-raised",
            "step() of the optimiser raised an exception",
            expected="an optimiser whose step() takes no argument, or update, which calls it in another way",
            example=EXAMPLE_UPDATE,
        ):
            for optimizer in self.optimizers:
                optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad()


class _ScaledRates:
    """Scales the learning rates of an optimiser within each of its steps.

    A schedule may set the rates itself, as OneCycleLR does, and may know the number of the groups. So both are changed
    for the step alone.
    """

    def __init__(self, optimizer: Optimizer, change: TrainingChange, context: Sequence[Tensor]) -> None:
        self._change, self._context = change, {id(p) for p in context}
        self._kept: list[tuple[dict[str, Any], Any, list[Tensor]]] = []
        optimizer.register_step_pre_hook(self._scale)
        optimizer.register_step_post_hook(self._restore)

    def _scale(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        groups, change = optimizer.param_groups, self._change
        self._kept = [(group, group["lr"], group["params"]) for group in groups]
        for group, rate, members in self._kept:
            group["lr"] = rate * change.rate
            apart = [p for p in members if id(p) in self._context]
            if apart and change.context_rate != 1:
                group["params"] = [p for p in members if id(p) not in self._context]
                groups.append({**group, "params": apart, "lr": group["lr"] * change.context_rate})

    def _restore(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        del optimizer.param_groups[len(self._kept) :]
        for group, rate, members in self._kept:
            group["lr"], group["params"] = rate, members


def _make_clipping(norm: float):  # type: ignore[no-untyped-def]  # a hook of torch, which annotates it
    def clip(optimizer: Optimizer, args: object, kwargs: object) -> None:
        members = (p for group in optimizer.param_groups for p in group["params"])
        gradients = [p.grad for p in members if p.grad is not None]
        # Only the values of sparse gradients have a norm in torch.
        values = [g.coalesce().values() if g.is_sparse else g for g in gradients]
        size = float(torch.nn.utils.get_total_norm(values))
        if size > norm:
            for gradient in gradients:
                gradient.mul_(norm / (size + 1e-6))

    return clip

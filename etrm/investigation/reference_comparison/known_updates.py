"""Settings of the optimisers that fit a model at test time: they act over more steps than a comparison takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.evaluation.adapted_weights import BETAS, WEIGHT_DECAY
from etrm.reference.training.context_steps import ContextUpdates
from etrm.reference.training.stages.differences import norm as norm_of
from etrm.training.context_fit import ContextAdam

SIZES = 1.0, 0.01, 100.0, 0.1, 10.0
"""Sizes of the known gradients, one after the other, so that the decays of both running means count."""
RATE = 0.1  # that of a search by default
LIMIT = 1e-5  # relative; of float32 operations on single numbers
CLIPPED = 1.001
"""The largest norm of a gradient that is clipped to 1: the rest is rounding of a sum in float32."""


@contextmanager
def compare_optimizer(rate: float, found: list[Departure]) -> Iterator[None]:
    """A context in which the optimiser that adapts weights must have its settings and clipped gradients at every step.

    Args:
        rate: the learning rate.
        found: the list to which departures are added.
    """
    wanted = {"lr": rate, "betas": BETAS, "weight_decay": WEIGHT_DECAY}
    wrong = list[str]()

    def check(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for group in optimizer.param_groups:
            wrong.extend(
                f"{name} {group.get(name)}, not {value}"
                for name, value in wanted.items()
                if group.get(name) != value
            )
        gradients = [
            p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        norm = norm_of(gradients)
        if norm > CLIPPED:
            wrong.append(f"norm {norm:g} of a gradient, not at most 1")

    handle = register_optimizer_step_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()
    if wrong:
        found.append(Departure(PipelineStage.ANSWERS, "optimizer of adapting", 1.0, 0.0, wrong[0]))


def compare_context_updates() -> list[Departure]:
    """Compare the updates of two contexts by known gradients, of which one leaves after the second step."""
    random = torch.Generator().manual_seed(0)
    contexts = torch.randn(2, 1, 4, generator=random)
    adam, updates = ContextAdam(contexts), ContextUpdates()
    found, wanted = contexts, contexts
    for step, size in enumerate(SIZES):
        gradient = size * torch.randn(2, 1, 4, generator=random)
        if step >= 2:
            gradient = gradient[1:]
        if step == 2:
            last = torch.tensor([1])
            adam.select(last)
            updates.mean, updates.square = updates.mean[last], updates.square[last]
            found, wanted = found[last], wanted[last]
        found, wanted = adam.step(found, gradient, RATE), updates.move(wanted, gradient, RATE)
        size_apart = _measure(found, wanted)
        if not size_apart <= LIMIT:
            where = f"update {step + 1} by known gradients"
            return [Departure(PipelineStage.ANSWERS, "searched context", size_apart, LIMIT, where)]
    return []


def _measure(found: Tensor, wanted: Tensor) -> float:
    """The difference in units of a step, which is about the rate."""
    return float((found - wanted).abs().max()) / RATE

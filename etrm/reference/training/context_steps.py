"""Gradient steps on contexts, from the loss of demonstrations as queries, written plainly.

Shapes: R contexts, P context tokens, D hidden, N demonstrations of all contexts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from etrm.config import ModelConfig, TrainConfig
from etrm.reference.data.posed_queries import PosedQueries
from etrm.reference.model.network import Weights, core_step
from etrm.reference.training.objective import row_losses

DECAY, EPSILON = 0.9, 1e-8
"""Both decays of Adam, and its epsilon, as the package chose them for contexts."""


@dataclass(frozen=True)
class AnsweredDemos:
    """Demonstrations as a model answers them from contexts.

    Attributes:
        losses: (N,) cross entropy in nats per token, averaged over the ACT steps.
        logits: (N, S, vocabulary) of the last ACT step.
    """

    losses: Tensor
    logits: Tensor


def answer_demos(
    core: Weights, model: ModelConfig, train: TrainConfig, contexts: Tensor, posed: PosedQueries, steps: int
) -> AnsweredDemos:
    """Answer demonstrations from contexts (R, P, D) in some ACT steps, each of which has a loss."""
    length = contexts.shape[1] + posed.inputs.shape[1]
    z_H, z_L = (core[f"{name}_init"].expand(len(posed.inputs), length, -1) for name in "HL")
    own, losses = contexts[posed.owner], []
    for _ in range(steps):
        result = core_step(core, model, z_H, z_L, own, posed.inputs, posed.positions, posed.valid)
        z_H, z_L = result.z_H.detach(), result.z_L.detach()
        found = row_losses(result.logits, result.q[:, 0], posed.labels, None, None, train)
        losses.append(found.cross_entropy)
    return AnsweredDemos(torch.stack(losses).mean(0), result.logits)


class ContextUpdates:
    """Adam on contexts (R, P, D)."""

    def __init__(self) -> None:
        self.mean, self.square, self.count = torch.zeros(()), torch.zeros(()), 0

    def move(self, contexts: Tensor, gradient: Tensor, rate: float) -> Tensor:
        """Return the contexts after one update."""
        self.count += 1
        self.mean = DECAY * self.mean.to(gradient) + (1 - DECAY) * gradient
        self.square = DECAY * self.square.to(gradient) + (1 - DECAY) * gradient * gradient
        share = 1 - DECAY**self.count
        return contexts - rate * (self.mean / share) / ((self.square / share).sqrt() + EPSILON)


def move_contexts(
    core: Weights, model: ModelConfig, train: TrainConfig, contexts: Tensor, posed: PosedQueries
) -> Tensor:
    """Return contexts (R, P, D) after the inner steps of training, without a graph; a loss has one ACT step."""
    frozen = {name: value.detach() for name, value in core.items()}
    found, updates = contexts.detach(), ContextUpdates()
    for _ in range(train.inner_steps):
        leaf = found.clone().requires_grad_()
        with torch.enable_grad():
            total = answer_demos(frozen, model, train, leaf, posed, 1).losses.sum()
        (gradient,) = torch.autograd.grad(total, [leaf])
        found = updates.move(found, gradient, train.inner_rate)
    return found


@dataclass(frozen=True)
class StoppedSearches:
    """The lowest losses (R,) of searches that may stop early, and the numbers of their steps (R,)."""

    losses: Tensor
    steps: Tensor


@dataclass(frozen=True)
class SearchedContexts:
    """The best contexts of a search.

    Attributes:
        losses: (R,) the lowest loss of the watched demonstrations.
        contexts: (R, P, D) the contexts with that loss.
        course: (steps + 1, R) the loss of the start and that after each step.
    """

    losses: Tensor
    contexts: Tensor
    course: Tensor

    def stopped_below(self, loss: float) -> StoppedSearches:
        """Return the same searches if each stops where its loss is below this one."""
        below = self.course[:-1] < loss
        steps = torch.where(below.any(0), below.int().argmax(0), len(below))
        places = torch.arange(len(self.course), device=steps.device)[:, None]
        return StoppedSearches(self.course.masked_fill(places > steps, torch.inf).min(0).values, steps)


def search_contexts(
    core: Weights,
    model: ModelConfig,
    train: TrainConfig,
    start: Tensor,
    posed: PosedQueries,
    held_out: Tensor,
    *,
    steps: int,
    rate: float,
) -> SearchedContexts:
    """Search contexts from a start (R, P, D), one gradient step after the other.

    Args:
        core, model, train: the weights of the core, and the settings.
        start: the first contexts.
        posed: the demonstrations.
        held_out: (N,) bool, those that are only watched; a context that has none watches the fitted ones.
        steps: the number of updates.
        rate: the learning rate.
    """
    found, updates = start.detach(), ContextUpdates()
    best, lowest = found, torch.full((len(start),), torch.inf, dtype=torch.float64, device=start.device)
    course = []
    for step in range(steps + 1):
        leaf = found.clone().requires_grad_()
        answered = answer_demos(core, model, train, leaf, posed, model.halt.max_steps)
        losses = average_watched(answered.losses.detach(), posed.owner, held_out, len(start))
        course.append(losses)
        better = losses < lowest
        lowest = torch.where(better, losses, lowest)
        best = torch.where(better[:, None, None], found, best)
        if step < steps:
            (gradient,) = torch.autograd.grad(answered.losses[~held_out].sum(), [leaf])
            found = updates.move(found, gradient, rate)
    return SearchedContexts(lowest, best, torch.stack(course))


def average_watched(values: Tensor, owner: Tensor, held_out: Tensor, contexts: int) -> Tensor:
    """The mean (R,) in float64 of values (N,) over the held-out demonstrations of each context, or over all fitted."""
    means = []
    for context in range(contexts):
        own, watched = owner == context, (owner == context) & held_out
        means.append(values[watched if bool(watched.any()) else own].double().mean())
    return torch.stack(means)

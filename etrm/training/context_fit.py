"""Fit contexts to demonstrations by gradient descent, with all weights frozen.

After Latent Program Networks (arXiv 2411.08706), which search the latent of a task at test time.

Shapes: R contexts, P context tokens, D hidden, N demonstrations of all contexts together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from etrm.batch import Batch
from etrm.data import Sample, collate
from etrm.device import to_device
from etrm.errors import ConfigError
from etrm.model.variant import Variant
from etrm.training.loss import act_loss

BETA = 0.9
"""Both decays of Adam: the second one is shorter than usual, because a search has tens of steps."""
EPSILON = 1e-8  # that of torch's Adam


@dataclass(frozen=True)
class PosedDemos:
    """Demonstrations as queries.

    Attributes:
        batch: the N queries.
        owner: (N,) int64 index of the context that answers each, ascending.
        held_out: (N,) bool, whether a query is only watched and not fitted.
    """

    batch: Batch
    owner: Tensor
    held_out: Tensor

    @classmethod
    def collated(
        cls, sets: Sequence[Sequence[Sample]], left_out: Sequence[int | None], device: torch.device
    ) -> PosedDemos:
        """Collate the posed demonstrations of R contexts.

        Args:
            sets: the queries of each context.
            left_out: the index of the query that each context only watches, or None.
            device: the device of the model.
        """
        owner = torch.tensor([row for row, posed in enumerate(sets) for _ in posed])
        held = [
            index == left for posed, left in zip(sets, left_out, strict=True) for index in range(len(posed))
        ]
        batch = collate([sample for posed in sets for sample in posed])
        return to_device(cls(batch, owner, torch.tensor(held)), device)

    def select(self, contexts: Tensor) -> PosedDemos:
        """Return the queries of some contexts, (n,) int64 and ascending."""
        kept = torch.isin(self.owner, contexts).nonzero().squeeze(1)
        owner = torch.searchsorted(contexts, self.owner[kept])
        return PosedDemos(self.batch.select(kept), owner, self.held_out[kept])


@dataclass(frozen=True)
class FittedContexts:
    """The result of a search.

    Attributes:
        context: (R, P, D), of each search the context with the lowest loss on its watched demonstrations: those that
            are held out, or the fitted ones where none is.
        loss: (R,) that loss in nats per token.
        steps: (R,) int64, gradient steps until a search stopped.
        fitted: (R,) float, share of the fitted demonstrations that the context answers exactly.
        held_out: (R,) the same share of held-out demonstrations; NaN where none is held out.
    """

    context: Tensor
    loss: Tensor
    steps: Tensor
    fitted: Tensor
    held_out: Tensor


def measure_demos(
    model: Variant, context: Tensor, demos: PosedDemos, kind: str, act_steps: int
) -> tuple[Tensor, Tensor]:
    """Answer demonstrations from contexts (R, P, D).

    Args:
        model: the model, in evaluation mode.
        context: the contexts.
        demos: N demonstrations as queries.
        kind: the loss, as ``train.loss``.
        act_steps: the number of ACT steps, each of which has a loss, as in training.

    Returns:
        (N,) losses in nats per token, averaged over the ACT steps; and (N,) bool, exact after the last one.
    """
    carry, rows = model.initial_carry(demos.batch.size), context[demos.owner]
    losses = []
    for _ in range(act_steps):
        carry, output = model.step(carry, demos.batch, rows)
        found = act_loss(output, demos.batch.labels, kind)
        losses.append(found.lm)
    return torch.stack(losses).mean(0), found.exact


class ContextAdam:
    """Adam on contexts (R, P, D), each independent of the others; the same numbers as torch's."""

    def __init__(self, context: Tensor) -> None:
        self.first, self.second, self.taken = torch.zeros_like(context), torch.zeros_like(context), 0

    def step(self, context: Tensor, gradient: Tensor, rate: float) -> Tensor:
        """Return the contexts after one step."""
        self.taken += 1
        self.first = BETA * self.first + (1 - BETA) * gradient
        self.second = BETA * self.second + (1 - BETA) * gradient.square()
        correction = 1 - BETA**self.taken
        spread = (self.second / correction).sqrt() + EPSILON
        return context - rate * (self.first / correction) / spread

    def select(self, contexts: Tensor) -> None:
        """Keep some of the contexts, (n,) int64."""
        self.first, self.second = self.first[contexts], self.second[contexts]


def fit_contexts(
    model: Variant,
    start: Tensor,
    demos: PosedDemos,
    *,
    steps: int,
    rate: float,
    stop_loss: float = 0.0,
    kind: str = "stablemax",
) -> FittedContexts:
    """Minimise the loss of each context on its fitted demonstrations by Adam, independently of the other contexts.

    Args:
        model: the model; its weights, gradients and mode are the same afterwards.
        start: (R, P, D) first contexts.
        demos: the demonstrations of the R contexts; each has at least one that is fitted.
        steps: the largest number of gradient steps.
        rate: the learning rate.
        stop_loss: the loss of the watched demonstrations below which a search stops.
        kind: the loss, as ``train.loss``.
    """
    with frozen_for_answers(model):
        search = _Search(model, start.detach().clone(), demos, kind)
        for _ in range(steps):
            search.advance(rate, stop_loss)
            if not len(search.running):
                break
        search.look()
        return search.result()


class _Search:
    """R searches, of which ``running`` (n,) are not finished; ``current`` and Adam are those of the running ones."""

    def __init__(self, model: Variant, context: Tensor, demos: PosedDemos, kind: str) -> None:
        self.model, self.kind, self.all_demos, self.demos = model, kind, demos, demos
        self.act_steps = model.config.halt.max_steps
        count, device = len(context), context.device
        self.running = torch.arange(count, device=device)
        self.best, self.current = context.clone(), context
        self.best_loss = torch.full((count,), float("inf"), dtype=torch.float64, device=device)
        self.steps = torch.zeros(count, dtype=torch.long, device=device)
        self.adam = ContextAdam(context)
        self.watches = _sums(demos.held_out, demos.owner, count) > 0

    def look(self) -> None:
        """Measure the running contexts, and keep those that are better than before."""
        if len(self.running):
            with torch.no_grad():
                self._keep(measure_demos(self.model, self.current, self.demos, self.kind, self.act_steps)[0])

    def _keep(self, losses: Tensor) -> Tensor:
        """Keep better contexts; return the watched loss (n,) of the running ones."""
        held, owner, count = self.demos.held_out, self.demos.owner, len(self.running)
        watched = torch.where(self.watches[self.running][owner], held, ~held)
        loss = _sums(losses.detach().double() * watched, owner, count) / _sums(watched, owner, count)
        better = loss < self.best_loss[self.running]
        rows = self.running[better]
        self.best[rows], self.best_loss[rows] = self.current.detach()[better], loss[better]
        return loss

    def advance(self, rate: float, stop_loss: float) -> None:
        """Do one step of Adam with the running contexts; then those that were good enough before it are finished."""
        context = self.current.requires_grad_()
        losses, _ = measure_demos(self.model, context, self.demos, self.kind, self.act_steps)
        (gradient,) = torch.autograd.grad((losses * ~self.demos.held_out).sum(), [context])
        loss = self._keep(losses)
        self.current = self.adam.step(context.detach(), gradient, rate)
        if stop_loss and bool((done := loss < stop_loss).any()):
            self._finish(done)
        self.steps[self.running] = self.adam.taken

    def _finish(self, done: Tensor) -> None:
        left = (~done).nonzero().squeeze(1)
        self.running = self.running[left]
        if not len(left):
            return
        self.demos, self.current = self.demos.select(left), self.current[left]
        self.adam.select(left)

    def result(self) -> FittedContexts:
        """Answer all demonstrations from the kept contexts."""
        demos, count = self.all_demos, len(self.best)
        with torch.no_grad():
            _, exact = measure_demos(self.model, self.best, demos, self.kind, self.act_steps)
        shares = [
            _sums(exact & chosen, demos.owner, count) / _sums(chosen, demos.owner, count)
            for chosen in (~demos.held_out, demos.held_out)
        ]
        return FittedContexts(self.best, self.best_loss, self.steps, *shares)


def check_searchable(model: Variant) -> None:
    """Refuse a model whose context is no free vector.

    Raises:
        ConfigError: it is the symbolic solver, or a variant from outside that does not implement ``step``.
    """
    if not model.config.recursive or type(model).step is Variant.step:
        raise ConfigError(
            "search.no-free-context",
            "a gradient can only move a context that the decoder reads as free vectors",
            got=f"model.variant {model.config.variant!r}",
            allowed="trm, etrm, etrm_cached, etrm_fct, or a variant from outside that implements step",
            next_step="evaluate without --search; train with --set train.inner_steps=0",
        )


def _sums(values: Tensor, owner: Tensor, count: int) -> Tensor:
    """Sum values (N,) by owner, as (count,) float64."""
    return values.new_zeros(count, dtype=torch.float64).index_add_(0, owner, values.double())


@contextmanager
def frozen_for_answers(model: Variant) -> Iterator[None]:
    """Put a model in evaluation mode without gradients of its weights; both are restored."""
    modes = [(module, module.training) for module in model.modules()]
    required = [(weight, weight.requires_grad) for weight in model.parameters()]
    model.eval()
    for weight, _ in required:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for weight, flag in required:
            weight.requires_grad_(flag)

"""Gradient steps on the context during training, as Latent Program Networks do (arXiv 2411.08706).

The context of each row moves against the gradient of its demonstrations' loss before the decoder reads it. The step is
a constant for the gradient of training: ``context + (moved - context).detach()``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from etrm.batch import Batch
from etrm.config import TrainConfig
from etrm.data import Sample, pose_demonstrations
from etrm.model.act import Carry
from etrm.model.forward_context import replaying
from etrm.model.variant import Given, Variant
from etrm.training.context_fit import ContextAdam, PosedDemos, check_searchable, measure_demos


class InnerSteps:
    """The inner steps of a run.

    They are computed in a second model that shares the storage of all weights, so that no measurement of the first
    one counts their calls, and no flag of its weights changes.

    Args:
        model: the model on its device, before anything watches or compiles it.
        train: the settings: the number of steps, their rate, and the loss.

    Raises:
        ConfigError: the context of the model is no free vector.
    """

    def __init__(self, model: Variant, train: TrainConfig) -> None:
        check_searchable(model)
        self.model, self.train = model, train
        self.shared = deepcopy(model).eval()
        for own, module in zip(self.shared.modules(), model.modules(), strict=True):
            for name, weight in module.named_parameters(recurse=False):
                own.register_parameter(name, nn.Parameter(weight.detach(), requires_grad=False))

    @contextmanager
    def moving(self, samples: Sequence[Sample]) -> Iterator[None]:
        """Move the contexts of a model that is called inside, whose rows are these samples."""
        demos = PosedDemos.collated(
            [pose_demonstrations(sample) for sample in samples], [None] * len(samples), self.model.device
        )
        policy = self.model.context_policy

        def moved(model: Variant, carry: Carry, batch: Batch) -> Given:
            given = policy(model, carry, batch)
            return replace(given, context=given.context + self.measure_move(given.context, demos))

        self.model.context_policy = moved
        try:
            yield
        finally:
            self.model.context_policy = policy

    def measure_move(self, context: Tensor, demos: PosedDemos) -> Tensor:
        """Return how far the steps move contexts (B, P, D), without a graph; each loss is that of one ACT step."""
        start = context.detach()
        current, adam = start, ContextAdam(start)
        for _ in range(self.train.inner_steps):
            leaf = current.detach().requires_grad_()  # not the start itself, which would get a gradient later
            with replaying(None):  # a second call before the first one's backward pass
                losses, _ = measure_demos(self.shared, leaf, demos, self.train.loss, 1)
            (gradient,) = torch.autograd.grad(losses.sum(), [leaf])
            current = adam.step(current, gradient, self.train.inner_rate)
        return current - start

"""Updates of a new model by known gradients at a large rate, at which a small decay shows too.

At the rates of a warm-up a decay moves a weight by less than float32 can hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from etrm.config import SIDE, Config
from etrm.device import to_device
from etrm.model.construct import build_variant
from etrm.model.variant import Variant
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.training.optimisation import Updated, update
from etrm.reference.training.stages.differences import LIMITS, dense, double, moved_apart
from etrm.training.trainer import Trainer

RATE = 1.0  # weights of a new model are smaller, so that a decay counts as much as the gradient
SIZES = 1.0, 0.1
"""Sizes of the gradients of two updates, so that the decays of both running means count."""
PUZZLES, TOUCHED = 3, (2, 0)  # rows of a puzzle table, and those in a batch


def compare_training_updates(trainer: Trainer, requested: Config) -> list[Departure]:
    """Compare updates of a new model with the reference, up to one that departs; code from outside is left out.

    Args:
        trainer: the run, whose recipe makes the optimisers.
        requested: the settings without faults.
    """
    if requested.model.own_encoder:
        return []
    with torch.random.fork_rng(devices=()):
        model = to_device(build_variant(requested.model, puzzles=PUZZLES, side=SIDE), trainer.device)
    optimizers = trainer.recipe.build_optimizers(model, trainer.config.train)
    _set_rate(optimizers)
    known = _KnownUpdates(requested)
    for size in SIZES:
        old = {name: value.detach().clone() for name, value in model.named_parameters()}
        known.add_gradients(model, size)
        trainer.recipe.update(optimizers, None)
        if found := known.compare(model, old):
            return found
    return []


def _set_rate(optimizers: list[Optimizer]) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = RATE


@dataclass
class _KnownUpdates:
    """The updates that some gradients should cause.

    Attributes:
        config: the settings.
        updated: the parameters after the last update, by name.
        count: the number of updates.
    """

    config: Config
    updated: dict[str, Updated] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        self._random = torch.Generator().manual_seed(self.config.train.seed)

    def add_gradients(self, model: Variant, size: float) -> None:
        """Give each parameter a random gradient of some size, and compute its update."""
        self.count += 1
        rows = to_device(torch.tensor(TOUCHED), model.device)
        for name, weight in model.named_parameters():
            sparse = name.startswith("puzzle_table.")
            shape = (len(TOUCHED), *weight.shape[1:]) if sparse else weight.shape
            drawn = to_device(size * torch.randn(shape, generator=self._random), model.device)
            if sparse:
                drawn = torch.sparse_coo_tensor(rows[None], drawn, weight.shape, check_invariants=True)
            weight.grad = drawn
            before = self.updated.get(name)
            self.updated[name] = update(
                weight.detach().double(),
                dense(weight.grad).double(),
                double(before.mean if before else None),
                double(before.square if before else None),
                self.count,
                RATE,
                self.config.train,
                rows if sparse else None,
            )

    def compare(self, model: Variant, old: Mapping[str, Tensor]) -> list[Departure]:
        """The parameters that are not where the last update should move them."""
        found, limit = list[Departure](), LIMITS[self.config.train.precision].exact
        for name, weight in model.named_parameters():
            size = moved_apart(weight.detach(), self.updated[name].weight, old[name])
            if not size <= limit:
                where = f"known update {self.count} at the rate {RATE:g}"
                still = torch.equal(weight.detach(), old[name])
                found.append(Departure(PipelineStage.UPDATE, name, size, limit, where, unmoved=still))
        return found

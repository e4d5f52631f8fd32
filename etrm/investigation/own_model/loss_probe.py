"""Losses of a fixed model on edited batches: the model and the random numbers are the same at every call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diagnostics.testing.trials import untouched
from etrm.device import to_host
from etrm.investigation.own_model.adapter_functions import compute_loss, compute_sample_losses
from etrm.investigation.own_model.model_factory import seed_everything
from etrm.investigation.own_model.model_under_test import ModelUnderTest, RowBatch
from etrm.investigation.own_model.shared_draws import SharedDraws

ROUNDING = 1e-4
"""Largest difference, relative to the size of what is compared, that counts as none: a hundred times what a sum of
another order makes of a loss in single precision."""
OTHER_DRAWS = 3
"""Other random numbers with which a loss is compared."""
NO_DRAW = 1e-5
"""Largest change of a loss without random numbers: sums in another order, as on a GPU."""
MIXING = (nn.modules.batchnorm._BatchNorm,)
"""Modules that mix the rows of a batch in training mode, by design."""


@dataclass(frozen=True)
class LossProbe:
    """Evaluates the user's functions without training; model, buffers and random numbers are restored.

    Attributes:
        subject: the model under test.
        seed: seed of the random numbers of every call.
    """

    subject: ModelUnderTest
    seed: int = 0

    @torch.no_grad()
    def step_loss(
        self,
        batch: RowBatch,
        before: Sequence[RowBatch] = (),
        seed: int | None = None,
        *,
        unmixed: bool = False,
        draws: SharedDraws | None = None,
    ) -> float:
        """The loss that the step returns.

        Args:
            batch: the batch.
            before: batches whose steps run before it, without an update.
            seed: another seed of the random numbers.
            unmixed: whether the model is in evaluation mode where rows would mix in training mode.
            draws: gives all rows the same random numbers, if given.
        """
        with untouched(self.subject.model):
            if unmixed:
                stop_mixing(self.subject.model)
            for earlier in before:
                seed_everything(self.seed, 3)
                compute_loss(self.subject, earlier)
            seed_everything(self.seed if seed is None else seed, 4)
            with draws or nullcontext():
                return float(compute_loss(self.subject, batch).detach())

    @torch.no_grad()
    def find_precision(self, batch: RowBatch) -> float:
        """The relative rounding of the step's loss in its data type."""
        with untouched(self.subject.model):
            seed_everything(self.seed, 4)
            return torch.finfo(compute_loss(self.subject, batch).dtype).eps

    @torch.no_grad()
    def sample_losses(self, batch: RowBatch) -> Tensor:
        """The loss of each row, in evaluation mode where rows would mix in training mode; float64 on the host."""
        with untouched(self.subject.model):
            stop_mixing(self.subject.model)
            seed_everything(self.seed, 4)  # as the step, which may draw the same numbers
            return to_host(compute_sample_losses(self.subject, batch).detach()).double()

    def predict(self, batch: RowBatch) -> Tensor:
        """The predictions, on the host. Gradients are on, because a prediction may differentiate in an inner loop."""
        assert self.subject.predict is not None
        with untouched(self.subject.model):
            seed_everything(self.seed, 6)
            return to_host(self.subject.predict(self.subject.model, batch).detach()).clone()

    def is_random(self, batch: RowBatch) -> bool:
        """Whether the loss of the same batch depends on the random numbers. Two draws can agree by chance."""
        own = self.step_loss(batch)
        draws = (self.step_loss(batch, seed=self.seed + draw) for draw in range(1, OTHER_DRAWS + 1))
        return any(not are_close(own, other, NO_DRAW) for other in draws)


def stop_mixing(model: nn.Module) -> None:
    """Put the model in evaluation mode if a module mixes rows in training mode."""
    if any(isinstance(module, MIXING) for module in model.modules()):
        model.eval()


def are_close(one: float, other: float, tolerance: float = ROUNDING) -> bool:
    """Whether two losses differ by rounding at most. Equal values that are not finite are close."""
    if one != one or other != other:
        return one != one and other != other
    return one == other or abs(one - other) <= tolerance * max(abs(one), abs(other)) < math.inf


def list_changed(before: Tensor, after: Tensor) -> list[int]:
    """The rows whose losses differ by more than rounding. Equal losses that are not finite do not differ."""
    finite = before.isfinite() & after.isfinite()
    usual = float(before[before.isfinite()].abs().mean().nan_to_num())
    scale = torch.maximum(before.abs(), after.abs()).clamp(min=usual + 1e-12)
    same = (before == after) | (before.isnan() & after.isnan())
    changed = torch.where(finite, (after - before).abs() > ROUNDING * scale, ~same)
    return [int(row) for row in changed.nonzero().flatten()]


def changes_alone(row: int, before: Tensor, after: Sequence[Tensor]) -> bool:
    """Whether edits of a row change its loss, and that of no other row.

    Its own loss may hardly change by chance, so that any of several edits counts, and what is more than sums in another
    order.

    Args:
        row: the edited row.
        before: the losses of the rows without an edit, (R,).
        after: the losses with each edit, (R,).
    """
    others = any(set(list_changed(before, losses)) - {row} for losses in after)
    own = any(not are_close(float(before[row]), float(losses[row]), NO_DRAW) for losses in after)
    return own and not others

"""Rows whose context a variant from outside leaves out in training, as with a dropout of whole contexts.

Such a row gives the encoder no gradient, and should not: its answer does not depend on what the encoder computes. A
gradient that is cut shows in a row whose answer does depend on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from etrm.config import Config, with_settings
from etrm.investigation.measurements.context_path import ROWS
from etrm.investigation.runs.measured_run import training_queries
from etrm.model.encoders import Encoded
from etrm.training.scoring.predictor import make_batch
from etrm.training.trainer import Trainer

DRAWS = 32
"""Passes with other random numbers: with a dropout of .1 and six rows, twenty rows are left out."""
DEVIATIONS = 4.0
"""Standard deviations by which two shares of rows may differ by chance."""


@dataclass(frozen=True)
class LeftOutRows:
    """What the passes show.

    Attributes:
        rows: the number of rows of all passes.
        left_out: those whose logits do not depend on the encoder.
        cut: those whose logits depend on it by value, but have no gradient for it.
        always: whether some place of the batch is left out in every pass.
    """

    rows: int
    left_out: int
    cut: int
    always: bool

    @property
    def share(self) -> float:
        """The share of rows that are left out."""
        return self.left_out / self.rows

    def explains(self, coverage: float, rows: int) -> bool:
        """Whether rows left out at random, and no cut gradient, are the reason for a mean coverage over many rows."""
        spread = (self.share * (1 - self.share) * (1 / self.rows + 1 / rows)) ** 0.5
        at_random = self.left_out > 0 and not self.cut and not self.always
        return at_random and 1 - coverage <= self.share + DEVIATIONS * spread


def count_left_out_rows(config: Config) -> LeftOutRows:
    """Count the rows of training passes whose logits the encoder does not reach, each pass with other random numbers.

    Raises:
        EtrmError: the model cannot be built.
    """
    trainer = Trainer(with_settings(config, monitor={"enabled": False}, train={"decoder": None}))
    model, encoder = trainer.model.train(), trainer.model.encoder
    assert encoder is not None
    batch = make_batch(model, training_queries(trainer)[:ROWS])

    def answer(draw: int, change: Callable[[Tensor], Tensor]) -> Tensor:
        """The logits (B, S, V) of a first ACT step with a changed output of the encoder."""

        def hook(module: object, args: object, output: Encoded) -> Any:
            return replace(output, context=change(output.context))

        handle = encoder.register_forward_hook(hook)
        try:
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(draw)
                return model(model.initial_carry(batch.size), batch)[1].logits.double()
        finally:
            handle.remove()

    by_draw: list[tuple[Tensor, Tensor]] = []
    for draw in range(DRAWS):
        leaves: list[Tensor] = []

        def keep(context: Tensor, leaves: list[Tensor] = leaves) -> Tensor:
            leaves.append(context.detach().clone().requires_grad_())
            return leaves[-1]

        logits = answer(draw, keep)
        with torch.no_grad():
            changed = answer(draw, lambda context: context + context.flip(-1) + 1)
            depends = (changed - logits).abs().flatten(1).amax(1) > 0
        arrives = torch.zeros_like(depends)
        if logits.requires_grad:
            loss = logits.square().sum()
            for gradient in torch.autograd.grad(loss, leaves, allow_unused=True):
                if gradient is not None:
                    arrives |= gradient.abs().flatten(1).amax(1) > 0
        by_draw.append((depends, depends & ~arrives))
    reached, cut = (torch.stack(rows) for rows in zip(*by_draw, strict=True))
    return LeftOutRows(
        rows=reached.numel(),
        left_out=int((~reached).sum()),
        cut=int(cut.sum()),
        always=bool((~reached).all(0).any()),
    )

"""Whether a model uses the context that each sample is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diagnostics.causes import Cause
from diagnostics.errors import InvalidValue
from diagnostics.findings import Finding
from diagnostics.rules.rule import CRITICAL, Family, Rule
from diagnostics.testing.failure import failure

CONTEXT_LOST = Cause(
    "context-lost", "the context is detached, equal for all samples, or not read by the modules after it"
)
CONTEXT001 = Rule(
    "CONTEXT001",
    CRITICAL,
    "The context is not used",
    "loss_change",
    "Follow the context from its computation to the loss: COLLAPSE001 and coverage name the module.",
    source="audit",
    causes=(CONTEXT_LOST,),
    arguments="ContextUse",
    what="The probe `ContextUse`: giving every sample the context of another changed the loss by less than a"
    " ten-thousandth, in evaluation mode, for each of three cyclic shifts.",
    why="A model that does not read its context can only memorise, and its loss still falls.",
    example="A decoder that multiplies the context with a gate that stayed at zero.",
    false_alarms="Equal contexts; an untrained head whose weights are zero.",
)
FAMILY = Family(160, "Samples and contexts", (CONTEXT001,))


@dataclass(frozen=True)
class ContextUse:
    """CONTEXT001: giving every sample the context of another changes the loss.

    Attributes:
        loss: Function (model, batch) -> the mean loss.
        shuffled: Function (batch, index) -> the batch with its context, and nothing else, taken from samples `index`.
        samples: Function that takes a batch and returns its number of samples.
        at_least: Change of the loss that counts as use, relative to the loss, in either direction: an untrained model
            that uses its context is as likely to lose as to gain. The default is a thousand times the rounding of
            single precision.
        tries: Number of cyclic shifts to try; the largest change counts.
    """

    loss: Callable[[nn.Module, Any], Tensor]
    shuffled: Callable[[Any, Tensor], Any]
    samples: Callable[[Any], int]
    at_least: float = 1e-4
    tries: int = 3
    rule: ClassVar[str] = "CONTEXT001"

    @torch.no_grad()
    def run(self, model: nn.Module, batch: Any) -> list[Finding]:
        """Compares in evaluation mode, so that dropout makes no difference.

        Raises:
            ValueError: Fewer than two samples: there is no other context.
        """
        model.eval()
        count = self.samples(batch)
        if count < 2:
            raise InvalidValue(
                "probes.too-few-samples",
                "measuring the use of a context needs at least two samples, found {got}",
                got=count,
            )
        own = float(self.loss(model, batch))
        changes = [
            abs(float(self.loss(model, self.shuffled(batch, torch.arange(count).roll(shift)))) - own)
            for shift in range(1, min(self.tries, count - 1) + 1)
        ]
        change = max(changes) / abs(own) if own else max(changes)
        if change >= self.at_least:
            return []
        return [
            failure(
                CONTEXT001,
                "",
                f"the context of another sample changes the loss by {change:.3g} of it",
                change,
                self.at_least,
                CONTEXT_LOST,
            )
        ]

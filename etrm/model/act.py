"""Adaptive computation time: a carry that persists over batches, and when its rows halt.

The carry holds only latent states. The samples of its rows are kept separately in the same order and
reach the model as a ``Batch``, so that labels, ids and demos always belong to the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from etrm.config import HaltConfig

EncoderState = dict[str, Tensor]
"""The state of a stateful encoder between two ACT steps: tensors (B, P, D) by name."""


@dataclass(frozen=True)
class Carry:
    """The state of B rows between two ACT steps; never has a graph.

    Attributes:
        z_H, z_L: (B, L, D) latent states, where L is the longest row of the last batch.
        steps: (B,) int64, ACT steps since the row's sample began.
        halted: (B,) bool, whether the row's sample is done; all True at the start.
        context: (B, P, D) the stored context of a variant that stores one, else None.
        encoder_state: the state of a stateful encoder after the first step, else None.
    """

    z_H: Tensor
    z_L: Tensor
    steps: Tensor
    halted: Tensor
    context: Tensor | None = None
    encoder_state: EncoderState | None = None

    @classmethod
    def initial(cls, rows: int, hidden_size: int, device: torch.device) -> Carry:
        """Return a carry in which every row is about to begin."""
        empty = torch.zeros(rows, 0, hidden_size, device=device)
        return cls(
            z_H=empty,
            z_L=empty,
            steps=torch.zeros(rows, dtype=torch.long, device=device),
            halted=torch.ones(rows, dtype=torch.bool, device=device),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by name: ``field``, or ``field.name`` if the field holds several."""
        found: dict[str, Tensor] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                found[field.name] = value
            elif value is not None:
                found |= {f"{field.name}.{name}": tensor for name, tensor in value.items()}
        return found

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Carry:
        """Build a carry from tensors by name, the inverse of :meth:`tensors`."""
        parts: dict[str, Any] = {}
        for key, tensor in tensors.items():
            field, _, name = key.partition(".")
            if name:
                parts.setdefault(field, {})[name] = tensor
            else:
                parts[field] = tensor
        return cls(**parts)

    def rows(self, chosen: slice) -> Carry:
        """Return some of the rows."""
        return Carry.of({name: tensor[chosen] for name, tensor in self.tensors().items()})

    @classmethod
    def join(cls, parts: Sequence[Carry]) -> Carry:
        """Join the rows of several carries of the same length, in their order."""
        if len(parts) == 1:
            return parts[0]
        tensors = [part.tensors() for part in parts]
        return cls.of({name: torch.cat([part[name] for part in tensors]) for name in tensors[0]})

    def begin(self, length: int, H_init: Tensor, L_init: Tensor) -> Carry:
        """Fit the states to ``length`` tokens and reset the halted rows.

        Cutting loses nothing: a row that continues is never longer than its batch, and the positions after
        its own tokens are masked everywhere.
        """
        fresh = self.halted[:, None, None]
        return replace(
            self,
            z_H=torch.where(fresh, H_init.to(self.z_H.dtype), _fit(self.z_H, length)),
            z_L=torch.where(fresh, L_init.to(self.z_L.dtype), _fit(self.z_L, length)),
            steps=self.steps.masked_fill(self.halted, 0),
        )


def _fit(z: Tensor, length: int) -> Tensor:
    return (
        z[:, :length] if z.shape[1] >= length else torch.nn.functional.pad(z, (0, 0, 0, length - z.shape[1]))
    )


def explore(rows: int, config: HaltConfig, generator: torch.Generator | None) -> Tensor | None:
    """Draw the minimum number of steps of each row, anew at every step; None without exploration.

    With probability ``exploration`` it is uniform in 2..max_steps, else 0, as in the published TRM code.

    Args:
        rows: the number of rows of the global batch, so that splitting it over processes or micro-batches
            changes no number.
        config: the settings of halting.
        generator: a generator on the CPU, so that every device draws the same numbers.

    Returns:
        (rows,) int64 minimum numbers of steps.
    """
    if config.exploration == 0 or config.max_steps < 2:
        return None
    held = torch.rand(rows, generator=generator) < config.exploration
    minimum = torch.randint(2, config.max_steps + 1, (rows,), generator=generator)
    return torch.where(held, minimum, 0)


def halts(steps: Tensor, q_halt: Tensor, config: HaltConfig, minimum: Tensor | None) -> Tensor:
    """Decide which rows stop after this step, in training.

    A row stops at ``max_steps``, or when its halting logit is positive, but not before its minimum.

    Args:
        steps: (B,) int64, including this step.
        q_halt: (B,) halting logits.
        config: the settings of halting.
        minimum: (B,) int64 as :func:`explore` draws it.

    Returns:
        (B,) bool, whether a row stops.
    """
    halted = (steps >= config.max_steps) | (q_halt > 0)
    return halted if minimum is None else halted & (steps >= minimum)

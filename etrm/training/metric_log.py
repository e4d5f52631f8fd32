"""The numbers of steps, left on the device until somebody wants to read them.

Reading waits for the device, so steps in between are only noted, and one transfer brings the numbers
of all of them: every step has its line, however seldom they are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from etrm.training.metrics import StepSums, compute_step_metrics, replace_nonfinite


class Landing:
    """A small tensor on its way to the host; waiting for it is put off until it is read."""

    def __init__(self, tensor: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._values = tensor
        if tensor.device.type == "cuda":
            self._values = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._values.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[Any]:
        """The values; waits until they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        found: list[Any] = self._values.tolist()
        return found


@dataclass(frozen=True)
class Fetched:
    """The numbers of a step on the host.

    Attributes:
        sums: by name.
        norm: gradient norm before clipping, None without clipping.
    """

    sums: StepSums[float]
    norm: float | None


@dataclass
class LoggedStep:
    """One step.

    Attributes:
        step: optimiser steps done when it ends.
        place: what the host knows before the step, first in the line.
        sums: on the device, as :func:`etrm.training.metrics.sum_step` gives them.
        norm: () gradient norm before clipping on the device, None without clipping.
        setting: what the host knows, behind the step's numbers.
        observed: what the toolkit saw.
        fetched: sums and norm on the host, None until then.
    """

    step: int
    place: dict[str, Any]
    sums: Tensor
    norm: Tensor | None
    setting: dict[str, Any]
    observed: dict[str, Any] = field(default_factory=dict)
    fetched: Fetched | None = None

    @property
    def norm_value(self) -> float | None:
        """The gradient norm, once fetched; None without clipping."""
        return None if self.fetched is None else self.fetched.norm

    def line(self) -> dict[str, Any]:
        """The step's metrics, once fetched."""
        assert self.fetched is not None
        norm = {} if self.norm is None else {"grad_norm_before_clip": self.norm_value}
        numbers = compute_step_metrics(self.fetched.sums, self.place["rows"])
        return replace_nonfinite(self.place | numbers | self.setting | norm | self.observed)


class Journal:
    """The steps that were noted and not yet handed out."""

    def __init__(self) -> None:
        self._entries: list[LoggedStep] = []

    def note(self, entry: LoggedStep) -> None:
        """Keep a step; nothing is read."""
        self._entries.append(entry)

    def forget(self) -> None:
        """Drop what was noted: those steps were given up."""
        self._entries.clear()

    def fetch(self) -> list[tuple[int, float]]:
        """Bring the numbers of all noted steps to the host, in one transfer.

        Returns:
            the steps and their losses (sums over the batch), whose numbers had not been fetched before.
        """
        unread = [entry for entry in self._entries if entry.fetched is None]
        if not unread:
            return []
        rows = [
            torch.cat((entry.sums, (entry.sums.new_zeros(()) if entry.norm is None else entry.norm).view(1)))
            for entry in unread
        ]
        found = []
        for entry, (*values, norm) in zip(unread, torch.stack(rows).tolist(), strict=True):
            sums = StepSums[float](*values)
            entry.fetched = Fetched(sums, None if entry.norm is None else norm)
            found.append((entry.step, sums.loss))
        return found

    def read(self) -> list[dict[str, Any]]:
        """The metrics of all noted steps, in their order; they are noted no longer."""
        self.fetch()
        entries, self._entries = self._entries, []
        return [entry.line() for entry in entries]

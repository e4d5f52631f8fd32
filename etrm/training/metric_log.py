"""The metrics of steps, which stay on the device until they are read.

Reading waits for the device. Steps in between are only noted, and one transfer fetches the metrics of all
of them, so that every step has its line, however rarely they are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from etrm.training.metrics import StepSums, compute_step_metrics, replace_nonfinite


class Landing:
    """A small tensor on its way to the host; only reading it waits for the transfer."""

    def __init__(self, tensor: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._values = tensor
        if tensor.device.type == "cuda":
            self._values = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._values.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[Any]:
        """Return the values, once the transfer is complete."""
        if self._arrived is not None:
            self._arrived.synchronize()
        found: list[Any] = self._values.tolist()
        return found


@dataclass(frozen=True)
class Fetched:
    """The numbers of a step on the host.

    Attributes:
        sums: the sums by name.
        norm: gradient norm before clipping, None without clipping.
    """

    sums: StepSums[float]
    norm: float | None


@dataclass
class LoggedStep:
    """One step.

    Attributes:
        step: optimiser steps done when it ends.
        place: values that the host knows before the step, first in the line.
        sums: the sums on the device, as :func:`etrm.training.metrics.sum_step` gives them.
        norm: () gradient norm before clipping on the device, None without clipping.
        setting: values that the host knows, after the step's metrics.
        observed: values that the toolkit recorded.
        fetched: sums and norm on the host, None until they are fetched.
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
    """The steps that were noted and not yet read."""

    def __init__(self) -> None:
        self._entries: list[LoggedStep] = []

    @property
    def unread(self) -> bool:
        """Whether a step was noted and not yet read."""
        return bool(self._entries)

    def note(self, entry: LoggedStep) -> None:
        """Keep a step without reading it."""
        self._entries.append(entry)

    def copy_last(self) -> LoggedStep | None:
        """Return a copy of the newest step that was noted and not yet read, whose metrics are fetched."""
        if not self._entries:
            return None
        alone = Journal()
        copied = replace(self._entries[-1], fetched=None)
        alone.note(copied)
        alone.fetch()
        return copied

    def forget(self) -> None:
        """Drop all noted steps, which failed."""
        self._entries.clear()

    def fetch(self) -> list[tuple[int, float]]:
        """Fetch the metrics of all noted steps to the host, in one transfer.

        Returns:
            the newly fetched steps with their losses (sums over the batch).
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
        """Return the metrics of all noted steps, in their order, and forget them."""
        self.fetch()
        entries, self._entries = self._entries, []
        return [entry.line() for entry in entries]

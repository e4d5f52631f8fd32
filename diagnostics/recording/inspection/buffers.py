"""Compares buffers that must not move, such as running statistics, at the entry and the exit of a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diagnostics.recording.readout import Readout, Readouts
from diagnostics.records import MovedBuffer


class FrozenBuffers:
    """Watches the buffers for whose name `frozen` returns true.

    Those that are not persistent are left out: no checkpoint has them, because they can be computed again.

    Args:
        owner: Full name -> the innermost watched module.
    """

    def __init__(self, model: nn.Module, frozen: Callable[[str], bool], owner: Callable[[str], str]) -> None:
        self._held = [
            (MovedBuffer(name, owner(name), False), layer, own)
            for prefix, layer in model.named_modules()
            for own, _ in layer.named_buffers(recurse=False)
            if own not in getattr(layer, "_non_persistent_buffers_set", ())
            and frozen(name := f"{prefix}.{own}".removeprefix("."))
        ]
        self._entry: list[Tensor | None] = []

    def begin(self) -> None:
        """Start a step: copy them."""
        self._entry = [
            None if buffer is None else buffer.detach().clone()
            for buffer in (getattr(layer, own, None) for _, layer, own in self._held)
        ]

    def finish(self, readout: Readout) -> MovedBuffers:
        """End of the step."""
        if not self._held:
            return MovedBuffers()
        flags = [
            _differ(before, getattr(layer, own, None))
            for before, (_, layer, own) in zip(self._entry, self._held, strict=True)
        ]
        self._entry = []
        held = tuple(MovedBuffer(held.name, held.owner, layer.training) for held, layer, _ in self._held)
        return MovedBuffers(held, readout.add_scalars(flags))


@dataclass(frozen=True)
class MovedBuffers:
    """The buffers of one step, and the key of what tells which of them changed."""

    buffers: tuple[MovedBuffer, ...] = ()
    key: int = -1

    def read(self, readout: Readouts) -> tuple[MovedBuffer, ...]:
        """Those that changed, once the readout was fetched."""
        if not self.buffers:
            return ()
        flags = readout.numbers(self.key)
        return tuple(buffer for buffer, flag in zip(self.buffers, flags, strict=True) if flag)


@torch.no_grad()
def _differ(before: Tensor | None, now: Tensor | None) -> Tensor:
    """A scalar, not zero where they differ in an element; NaN is equal to NaN."""
    if before is None or now is None or before.shape != now.shape:
        return torch.tensor(float(before is not now))
    return ((before != now) & ~(before.isnan() & now.isnan())).any().float()

"""Measures which share of the optimisers' change is left at the end of a step.

Compares a few numbers of each parameter at the entry of the step, after the last optimiser's step, and at the exit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diagnostics.recording.readout import Readout
from diagnostics.records import Absent, Number

_SOME = 64  # numbers per parameter: the share is nearly the same for all of its numbers, and 64 cost next to nothing


class AppliedUpdates:
    """Reads the first numbers of each parameter, through aliases of their memory."""

    def __init__(self) -> None:
        self._entry: list[Tensor] = []
        self._now: list[Tensor] = []
        self._applied: list[Tensor] = []
        self._keys: tuple[int, int] | None = None

    def begin(self, entry: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
        """Start a step.

        Args:
            entry: Copies of the parameters, the same tensors as long as the parameters lie where they did.
        """
        self._applied, self._keys = [], None
        if not _lie_in(self._now, parameters):
            self._entry = [_some_of(copy) for copy in entry]
            self._now = [_some_of(parameter.detach()) for parameter in parameters]

    def after_optimizer(self) -> None:
        """An optimiser has stepped."""
        with torch.no_grad():
            self._applied = list(torch._foreach_sub(self._entry, self._now)) if self._entry else []

    def finish(self, readout: Readout) -> None:
        """End of the step, when the copies hold what the whole step changed."""
        if self._applied:
            before, after = torch._foreach_norm(self._applied, 2), torch._foreach_norm(self._entry, 2)
            self._keys = (readout.add_scalars(list(before)), readout.add_scalars(list(after)))

    def kept(self, readout: Readout, count: int) -> list[Number]:
        """For each of `count` parameters the share of its update that is left, once the readout was fetched."""
        if self._keys is None:
            return [Absent("no optimiser stepped", "no-step")] * count
        before, after = (readout.numbers(key) for key in self._keys)
        still = Absent("the optimisers changed none of the numbers that are compared", "no-change")
        return [left / update if update else still for update, left in zip(before, after, strict=True)]

    def forget(self) -> None:
        """Release the memory of the parameters and their copies."""
        self._entry, self._now, self._applied = [], [], []


def _some_of(tensor: Tensor) -> Tensor:
    """A view of the first numbers of a tensor; empty if the tensor is not a plain block of memory."""
    plain = type(tensor) is Tensor and tensor.is_contiguous()
    return tensor.view(-1)[:_SOME] if plain else torch.empty(0, dtype=tensor.dtype, device=tensor.device)


def _lie_in(some: Sequence[Tensor], whole: Sequence[Tensor]) -> bool:
    """Whether they are aliases of these tensors: `.data` may have been bound anew."""
    return len(some) == len(whole) and all(
        not part.numel() or part.data_ptr() == tensor.data_ptr()
        for part, tensor in zip(some, whole, strict=True)
    )

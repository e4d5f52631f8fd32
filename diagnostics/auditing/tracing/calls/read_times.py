"""When each tensor of a step was read last."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


class ReadTimes:
    """The times of a step, and when each tensor was read last, by its id: tensors that are asked about are alive.

    Attributes:
        now: The number of the last event.
    """

    def __init__(self) -> None:
        self.now = 0
        self._read: dict[int, int] = {}

    def pass_on(self) -> int:
        """Begin the next event, and return its number."""
        self.now += 1
        return self.now

    def read(self, tensors: Iterable[Tensor]) -> None:
        """Tensors are read now."""
        self._read.update((id(each), self.now) for each in tensors)

    def is_unread(self, tensor: Tensor, since: int) -> bool:
        """Whether no event after this one read a tensor."""
        return self._read.get(id(tensor), 0) <= since

    def clear(self) -> None:
        """Forget what was read."""
        self._read.clear()

"""Which of the tensors that a model was given are read, and by which of its modules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from diagnostics.recording.tensors import tensors_in

ASKS = ("size", "dim", "numel", "stride", "is_floating_point", "data_ptr", "storage_offset", "__len__")
"""Functions that ask about a tensor and do not read its numbers."""


class Reads:
    """The last call of the model in one step.

    Attributes:
        given: The tensors that it was given.
    """

    def __init__(self) -> None:
        self.given: list[Tensor] = []
        self._read: set[int] = set()
        self._readers: dict[int, set[str]] = {}

    def begin(self, given: Any) -> None:
        """The model is called."""
        self.given = list(tensors_in(given))
        self._read, self._readers = set(), {}

    def enter(self, module: str, args: tuple[Any, ...]) -> None:
        """A module inside it is called."""
        for each in tensors_in(args):
            self._readers.setdefault(id(each), set()).add(module)

    def note(self, name: str, given: Iterable[Tensor]) -> None:
        """A function was called with some tensors."""
        if self.given and name not in ASKS:
            self._read.update(map(id, given))

    def unread(self) -> list[int]:
        """Places in `given` of tensors that no function received."""
        return [place for place, each in enumerate(self.given) if id(each) not in self._read]

    def readers(self, place: int) -> list[str]:
        """The outermost modules that received a tensor as it is."""
        names = sorted(self._readers.get(id(self.given[place]), ()))
        return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]

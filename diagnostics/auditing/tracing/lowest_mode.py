"""A torch function mode that stays below the modes of the program, whatever it enters and leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from torch.overrides import TorchFunctionMode, _get_current_function_mode, _pop_mode, _push_mode


class LowestMode(TorchFunctionMode):
    """A mode below all others: each of theirs is left before or after this one."""

    def __enter__(self) -> Self:
        """Begin below the modes that the program has entered."""
        with _without_modes():
            super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End, whatever was entered since."""
        with _without_modes(until=self):
            super().__exit__(kind, error, trace)


@contextmanager
def _without_modes(until: TorchFunctionMode | None = None) -> Iterator[None]:
    """Take the modes of torch functions away for the block, of those above `until` alone where it is given."""
    taken: list[TorchFunctionMode] = []
    while (top := _get_current_function_mode()) is not None and top is not until:
        taken.append(top)
        _pop_mode()
    try:
        yield
    finally:
        for each in reversed(taken):
            _push_mode(each)

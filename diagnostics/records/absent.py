"""Numbers of a record that may be absent, with the reason."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from diagnostics.causes import Cause
from diagnostics.records.columns import Column


@dataclass(frozen=True, slots=True)
class Absent:
    """A value that could not be measured, and why. It is false, so `value or default` works.

    Attributes:
        reason: A sentence.
        code: Stable name of the reason, "" where the user's own code gives none.
    """

    reason: str
    code: str = ""

    def __bool__(self) -> bool:
        return False

    @classmethod
    def because(cls, cause: Cause) -> Absent:
        """A value that is absent for a known cause."""
        return cls(str(cause), cause.code)

    @property
    def cause(self) -> Cause:
        """The reason as the cause of a finding."""
        return Cause(self.code, "{reason}").of(reason=self.reason)


Number = float | Absent


def root_sum_squares(values: Iterable[Any]) -> Any:
    """L2 norm of a vector, from the norms of its parts."""
    parts = list(values)
    column = next((part for part in parts if isinstance(part, Column)), None)
    return math.hypot(*parts) if column is None else column.compute(_hypot_of, *parts)


def _hypot_of(_: float, *parts: float) -> float:
    return math.hypot(*parts)

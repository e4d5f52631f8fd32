"""Reasons with stable codes, and what an inspection of a config found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from etrm.investigation.records import Code


@dataclass(frozen=True)
class VerdictReason:
    """One thing that was found.

    Attributes:
        code: stable name, ``<part>.<what>``.
        words: the same in words, with the numbers.
    """

    code: Code
    words: str


class InspectionFacts(ABC):
    """What an inspection of one config found."""

    @property
    @abstractmethod
    def holds(self) -> bool:
        """Whether the hypothesis holds."""

    @property
    def undecided(self) -> bool:
        """Whether nothing shows that the hypothesis holds or that it does not."""
        return False

    @property
    @abstractmethod
    def reasons(self) -> Sequence[VerdictReason]:
        """At least one reason; where the hypothesis does not hold, what was found sound."""

    @property
    def codes(self) -> tuple[Code, ...]:
        """The stable names of the reasons."""
        return tuple(dict.fromkeys(reason.code for reason in self.reasons))

    @property
    def words(self) -> str:
        """The reasons with their numbers."""
        return "; ".join(reason.words for reason in self.reasons)

"""What evidence is made of: metrics with stable codes that make rows, and reasons with stable codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from etrm.investigation.result import Code, Direction, Effect, Evidence, InstrumentCheck, Value


@dataclass(frozen=True)
class Metric:
    """What rows of an evidence table measure; a module declares its metrics once and makes rows of them.

    Attributes:
        code: stable name, ``<part>.<what>``; it stays what it is when the words change.
        words: as a table shows it; ``{item}`` stands for which one, where a table has several rows of it.
        direction: what a healthy value is like.
    """

    code: Code
    words: str
    direction: Direction = Direction.CONTEXT

    def row(
        self,
        treatment: Value,
        *,
        threshold: str,
        n: str,
        control: Value | None = None,
        passed: bool | None = None,
        item: str = "",
        item_words: str = "",
        low: float | None = None,
        high: float | None = None,
        effect: Effect | None = None,
        final: str = "",
        note: str = "",
    ) -> Evidence:
        """A row of this metric.

        Args:
            treatment: what was measured in the run under test.
            threshold: in words, with the number.
            n: what was counted.
            control: what it is compared with.
            passed: outcome; None where the row decides nothing.
            item: stable name of which one, where a table has several rows of this metric.
            item_words: how a table calls it; the name by default.
            low, high: ends of the interval of the difference, where there is one.
            effect: where a paired comparison decides the row.
            final: key of the runs' final value that is compared, where it is one.
            note: what a reader should know.

        Raises:
            ValidationError: a metric of context with an outcome.
        """
        return Evidence(
            code=self.code,
            item=item,
            metric=self.words.format(item=item_words or item),
            direction=self.direction,
            control=control,
            treatment=treatment,
            low=low,
            high=high,
            effect=effect,
            final=final,
            threshold=threshold,
            passed=passed,
            n=n,
            note=note,
        )


@dataclass(frozen=True)
class Instrument:
    """What must hold for the numbers of some runs to mean anything.

    Attributes:
        code: stable name, ``<part>.<what>``.
        words: what must hold.
    """

    code: Code
    words: str

    def check(self, passed: bool, detail: str) -> InstrumentCheck:
        """Whether it holds, with the numbers."""
        return InstrumentCheck(code=self.code, name=self.words, passed=passed, detail=detail)


@dataclass(frozen=True)
class Reason:
    """One thing that was found.

    Attributes:
        code: stable name, ``<part>.<what>``.
        words: the same in words, with its numbers.
    """

    code: Code
    words: str


class Found(ABC):
    """What a look at one subject found."""

    @property
    @abstractmethod
    def holds(self) -> bool:
        """Whether the hypothesis holds."""

    @property
    @abstractmethod
    def reasons(self) -> Sequence[Reason]:
        """Why, at least one; where the hypothesis does not hold, what was found sound."""

    @property
    def codes(self) -> tuple[Code, ...]:
        """Stable names of the reasons."""
        return tuple(dict.fromkeys(reason.code for reason in self.reasons))

    @property
    def words(self) -> str:
        """The reasons with their numbers."""
        return "; ".join(reason.words for reason in self.reasons)

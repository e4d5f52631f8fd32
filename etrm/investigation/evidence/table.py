"""The rows of an evidence table, and the metrics with stable codes that make them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from annotated_types import Interval, Len
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ValidationInfo,
    field_validator,
)

from etrm.investigation.records import Code, InstrumentCheck, NotMeasured, Record, Value

LARGEST = 1e12
"""Largest effect that counts as a measurement; a larger one comes from a run that diverged."""


_Bounded = Annotated[float, Interval(ge=-LARGEST, le=LARGEST)]


class Effect(Record):
    """The numbers from which the rule of a row decided, so that a report can state what would change it."""

    by_seed: Annotated[tuple[_Bounded, ...], Len(1)]  # towards VALIDATED, seeds in order
    smallest: Annotated[float, Interval(ge=1e-9, le=LARGEST)]  # that matters
    level: Annotated[float, Interval(ge=0.5, le=0.9999)] = 0.9  # of the interval, two-sided

    @classmethod
    def known(cls, by_seed: Sequence[float], smallest: float, level: float = 0.9) -> Effect | None:
        """The effect; None if no seed was measured or a value is too large to be a score."""
        if not by_seed or not all(abs(value) <= LARGEST for value in by_seed):
            return None
        return cls(by_seed=tuple(by_seed), smallest=smallest, level=level)


class Direction(StrEnum):
    """What a healthy value of a metric is like."""

    HIGHER = "higher"
    LOWER = "lower"
    EQUAL = "equal"  # to the control
    HOLDS = "holds"  # the threshold, in words
    CONTEXT = "context"  # decides nothing


def _measured(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return NotMeasured(absent=f"not finite: {value}")
    return value


def _end(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


_Measured = Annotated[Value, BeforeValidator(_measured)]


_End = Annotated[float | None, BeforeValidator(_end)]


class EvidenceRow(Record):
    """One row of an evidence table. A number that is not finite is ``NotMeasured``, an infinite end None."""

    code: Code  # of the metric
    item: str = ""  # which one, where a table has several rows of a metric: a stable name as well
    metric: str  # in words
    direction: Direction
    control: _Measured | None = None  # the arm or baseline it is compared with
    treatment: _Measured  # the value measured in the run under test
    low: _End = None  # interval of the difference, or of the value if the note says so
    high: _End = None
    effect: Effect | None = None  # where a paired comparison decides the row
    final: str = ""  # key of the runs' final value that is compared, where it is one
    threshold: str  # in words, with the number
    passed: bool | None = None  # None where the row decides nothing
    n: str  # what was counted, e.g. "3 seeds x 150 steps"
    note: str = ""

    @field_validator("passed")
    @classmethod
    def _decides(cls, passed: bool | None, info: ValidationInfo) -> bool | None:
        """Context decides nothing, and what was not measured passes nothing."""
        if passed is not None and info.data.get("direction") is Direction.CONTEXT:
            raise ValueError("a row of context has no outcome")
        return None if passed and isinstance(info.data.get("treatment"), NotMeasured) else passed


def _distinct(rows: tuple[EvidenceRow, ...]) -> tuple[EvidenceRow, ...]:
    keys = [(row.code, row.item) for row in rows]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ValueError(f"two rows of evidence are {' of '.join(filter(None, twice))}")
    return rows


Table = Annotated[tuple[EvidenceRow, ...], AfterValidator(_distinct)]
"""Rows, no two with the same code and item, so that each can be found again in another result."""


@dataclass(frozen=True)
class Metric:
    """What rows of an evidence table measure; a module declares its metrics once and makes rows of them.

    Attributes:
        code: the stable name, ``<part>.<what>``; it does not change when the words change.
        words: the name in a table; ``{item}`` is replaced by the item if a table has several rows of this metric.
        direction: the direction of a healthy value.
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
    ) -> EvidenceRow:
        """A row of this metric.

        Args:
            treatment: the value measured in the run under test.
            threshold: the threshold in words, with the number.
            n: the sample on which it was measured, in words.
            control: the value with which it is compared.
            passed: outcome; None where the row decides nothing.
            item: stable name that tells several rows of this metric in one table apart.
            item_words: the words for the item in a table; its name by default.
            low, high: ends of the interval of the difference, where there is one.
            effect: the effect of each seed, if a paired comparison decides the row.
            final: key of the runs' final value that is compared, where it is one.
            note: a note for the reader.

        Raises:
            ValidationError: a metric of context with an outcome.
        """
        return EvidenceRow(
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

    def expect_none(
        self,
        count: int,
        n: str,
        *,
        item: str = "",
        item_words: str = "",
        threshold: str = "0",
        note: str = "",
    ) -> EvidenceRow:
        """A row of what must not occur: passed where the count is 0.

        Args:
            count: the number that was counted.
            n: the sample on which it was counted, in words.
            item: stable name of the item, where a table has several rows of this metric.
            item_words: name of the item in a table; ``item`` by default.
            threshold: the threshold in words.
            note: a note for the reader.
        """
        return self.row(
            count,
            control=0.0,
            threshold=threshold,
            passed=not count,
            n=n,
            item=item,
            item_words=item_words,
            note=note,
        )

    def expect_all(self, matched: float, total: float, n: str, *, threshold: str = "") -> EvidenceRow:
        """A row of what must hold for all of ``total``: passed where it holds for so many."""
        threshold = threshold or f"all {total:g}"
        return self.row(matched, control=total, threshold=threshold, passed=matched == total, n=n)

    def expect_at_most(self, value: float, limit: float, n: str, *, note: str = "") -> EvidenceRow:
        """A row of a difference that must not exceed a limit."""
        return self.row(value, control=0.0, threshold=f"<= {limit:g}", passed=value <= limit, n=n, note=note)


@dataclass(frozen=True)
class Instrument:
    """What must hold for the numbers of some runs to mean anything.

    Attributes:
        code: stable name, ``<part>.<what>``.
        words: the condition that must hold, in words.
    """

    code: Code
    words: str

    def check(self, passed: bool | None, detail: str) -> InstrumentCheck:
        """Whether it holds, with the numbers; None if there is nothing to check."""
        return InstrumentCheck(code=self.code, name=self.words, passed=passed, detail=detail)

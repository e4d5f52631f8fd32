"""What an investigation found: the closed schema of ``result.json``.

Everything that a report shows stands here, figures' data included, so that rendering is a pure
function of this file. A value that was not measured is ``Absent`` with its reason, never 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from annotated_types import Interval, Len
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from etrm.atomic_files import write_atomically
from etrm.errors import RunFolderError

SCHEMA_VERSION: Literal[3] = 3
PREVIOUS = "result.previous.json"
"""What stood in an investigation's folder before its ``result.json`` was written."""


class Verdict(StrEnum):
    """Of the statement as worded; a fault that is present VALIDATES its hypothesis."""

    VALIDATED = "VALIDATED"
    INVALIDATED = "INVALIDATED"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"
    NOT_RUN = "NOT RUN"


class Record(BaseModel):
    """Base: immutable, closed, and validated whenever one is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def replace(self, **changes: Any) -> Self:
        """The record with some fields changed, validated like a new one.

        Raises:
            ValidationError: a field that does not exist, or a value that it does not take.
        """
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy. Pydantic does not validate ``update``, so it is refused.

        Raises:
            TypeError: an update was given.
        """
        if update is not None:
            raise TypeError("model_copy(update=...) does not validate: use replace(...)")
        return super().model_copy(deep=deep)


Code = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)+$")]
"""A stable name, ``<part>.<what>``: what a reader or a program may rely on, whatever the words beside it become."""


class Absent(Record):
    """A value that could not be had, and why."""

    absent: str


Value = float | Absent


class EnvironmentChange(Record):
    """What computed a run changed before its end: the run was stopped and resumed elsewhere."""

    step: int  # optimiser steps done before the change
    name: str  # e.g. "device", "threads", "versions.torch"
    before: str
    now: str


class Run(Record):
    """One training run of an arm.

    Device, precision and threads are those of the process that ended the run, as its folder recorded them; None where
    it failed before it recorded any.
    """

    arm: str
    seed: int
    folder: str  # relative to the investigation's folder
    steps: int
    wall_s: float
    state: Literal["finished", "failed"]
    diverged: bool = False  # failed because a loss, a gradient or a weight was not finite: the worst score
    code: str = ""  # of the error that ended it; empty where a bug or the machine did
    reason: str = ""
    device: str | None = None  # type and hardware, e.g. "cuda: NVIDIA H100"
    precision: Literal["float32", "bfloat16"] | None = None  # of matrix products
    threads: int | None = None  # CPU threads of torch
    changes: tuple[EnvironmentChange, ...] = ()
    final: dict[str, Value] = {}


class Arm(Record):
    """A named setting that was run, and the one thing in which it differs."""

    name: str
    role: Literal["subject", "control", "treatment", "positive control", "negative control"]
    difference: str
    settings: tuple[str, ...] = ()  # section.key=value against the subject
    faults: tuple[str, ...] = ()


LARGEST = 1e12
"""Beyond this an effect is that of a number that is none."""
_Bounded = Annotated[float, Interval(ge=-LARGEST, le=LARGEST)]


class Effect(Record):
    """What the registered rule of a row decided from, so that a reader can ask what would change it."""

    by_seed: Annotated[tuple[_Bounded, ...], Len(1)]  # towards VALIDATED, seeds in order
    smallest: Annotated[float, Interval(ge=1e-9, le=LARGEST)]  # that matters
    level: Annotated[float, Interval(ge=0.5, le=0.9999)] = 0.9  # of the interval, two-sided

    @classmethod
    def known(cls, by_seed: Sequence[float], smallest: float, level: float = 0.9) -> Effect | None:
        """None where no seed was measured, or one is no score: nothing can be foretold from those."""
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
        return Absent(absent=f"not finite: {value}")
    return value


def _end(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


_Measured = Annotated[Value, BeforeValidator(_measured)]
_End = Annotated[float | None, BeforeValidator(_end)]


class Evidence(Record):
    """One row of an evidence table. A number that is not finite is ``Absent``, an infinite end of an interval open."""

    code: Code  # of the metric
    item: str = ""  # which one, where a table has several rows of a metric: a stable name as well
    metric: str  # in words
    direction: Direction
    control: _Measured | None = None  # the arm or baseline it is compared with
    treatment: _Measured  # what was measured in the subject
    low: _End = None  # interval of the difference, where there is one
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
        return None if passed and isinstance(info.data.get("treatment"), Absent) else passed


def _distinct(rows: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
    keys = [(row.code, row.item) for row in rows]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ValueError(f"two rows of evidence are {' of '.join(filter(None, twice))}")
    return rows


Table = Annotated[tuple[Evidence, ...], AfterValidator(_distinct)]
"""Rows of which no two have the same code and item, so that each is found again in another result."""


class ControlOutcome(Record):
    """Did a control behave? If not, the verdict is ERROR."""

    name: str
    kind: Literal["positive", "negative"]
    what: str  # e.g. "fault cached-context on preset smoke"
    expected: Verdict
    got: Verdict
    behaved: bool
    codes: Annotated[tuple[Code, ...], Len(1)]  # what was found, or why nothing could be
    detail: str  # the same in words
    candidate: bool = False  # what it got is one, and only its few seeds stand in the way of VALIDATED


class InstrumentCheck(Record):
    """Can the instruments be trusted in these runs?"""

    code: Code
    name: str  # what must hold, in words
    passed: bool
    detail: str


class Series(Record):
    """One curve of a figure."""

    figure: str  # figures are grouped by this key, e.g. "encoder-coverage"
    arm: str
    seed: int
    label: str  # e.g. "before clipping"
    x: tuple[float, ...]
    y: tuple[float, ...]  # NaN stands where a step has no value

    @field_serializer("y", when_used="json")
    def _y_out(self, values: tuple[float, ...]) -> list[float | None]:
        return [value if math.isfinite(value) else None for value in values]

    @field_validator("y", mode="before")
    @classmethod
    def _y_in(cls, values: Any) -> Any:
        return tuple(math.nan if value is None else value for value in values)


class Figure(Record):
    """A figure's frame; its curves are the series with the same key."""

    key: str
    title: str
    x_label: str
    y_label: str
    caption: str  # how to read it, in one or two sentences
    y_log: bool = False
    y_range: tuple[float, float] | None = None
    lines: tuple[tuple[str, float], ...] = ()  # horizontal reference lines


class Hypothesis(Record):
    """One hypothesis, decided."""

    id: str
    title: str
    statement: str
    refuted_by: str
    mechanism: str
    kind: Literal["mechanistic", "statistical", "mixed"]
    verdict: Verdict
    codes: Annotated[tuple[Code, ...], Len(1)]  # why: what was found, or why nothing could be
    sentence: str  # the same in one sentence with its numbers
    screening: bool = False
    candidate: bool = False  # only the number of seeds stood in the way of VALIDATED
    p_value: float | None = None  # of the gain it rests on, one-sided, Holm-adjusted within the hypothesis
    explained_by: str | None = (
        None  # the hypothesis whose fault, if it is present, makes this one hold or fail
    )
    arms: tuple[Arm, ...] = ()
    runs: tuple[Run, ...] = ()
    evidence: Table = ()
    controls: tuple[ControlOutcome, ...] = ()
    instruments: tuple[InstrumentCheck, ...] = ()
    figures: tuple[Figure, ...] = ()
    series: tuple[Series, ...] = ()
    would_change: str = ""
    wall_s: float = 0.0
    decided_after_s: float | None = None  # since the investigation began


def explanation(hypothesis: Hypothesis, hypotheses: Mapping[str, Hypothesis]) -> str | None:
    """The hypothesis that explains this one, if it was found to hold, leads, or was not looked at."""
    if hypothesis.explained_by is None:
        return None
    other = hypotheses.get(hypothesis.explained_by)
    stands = other is None or other.candidate or other.verdict is Verdict.VALIDATED
    return hypothesis.explained_by if stands else None


class Scenario(StrEnum):
    """What an experiment shows."""

    LEARNS = "A"
    STUCK = "B"
    USELESS = "C"
    UNDECIDED = "none"
    CAUGHT = "caught"
    MISSED = "missed"


class Experiment(Record):
    """An experiment with scenarios rather than a verdict, such as the frozen decoder."""

    id: str
    title: str
    question: str
    scenario: Scenario
    codes: Annotated[tuple[Code, ...], Len(1)]  # why
    sentence: str  # the same in one sentence with its numbers
    scenarios: tuple[tuple[Scenario, str], ...]  # those that were possible, and what each looks like
    screening: bool
    arms: tuple[Arm, ...] = ()
    runs: tuple[Run, ...] = ()
    evidence: Table = ()
    figures: tuple[Figure, ...] = ()
    series: tuple[Series, ...] = ()
    wall_s: float = 0.0


class Beside(Record):
    """A finding of the toolkit in the subject's own runs, whatever the hypotheses say."""

    rule: str
    severity: Literal["critical", "warning"]
    module: str  # empty for the whole model
    message: str
    code: str = ""  # of the cause; empty in results of toolkits that had none
    cause: str
    remedy: str
    n: str = ""  # runs that have it


class Reproduce(Record):
    """What it takes to get the same numbers."""

    command: str
    commit: str
    dirty: bool
    seeds: tuple[int, ...]
    data_hash: str
    versions: dict[str, str]
    hardware: str
    device: str = ""  # of arms that are inspected and not trained; empty in results of earlier versions
    precision: str = ""  # the same
    threads: int
    tier: str = ""  # of the budget; empty in results that were written before there were tiers
    wall_s: float
    config: dict[str, Any]


class CauseCode(StrEnum):
    """Whether a root cause is named, and why not."""

    PROVEN = "cause.proven"
    CANDIDATE = "cause.candidate"
    ERROR = "cause.open-behind-an-error"
    NONE = "cause.none-found"
    NOT_TESTED = "cause.nothing-tested"


class Result(Record):
    """An investigation."""

    schema_version: Literal[3] = SCHEMA_VERSION
    subject: str
    cause_code: CauseCode
    root_cause: str | None
    root_cause_confidence: Literal["proven", "candidate"] | None
    sentence: str
    next_step: str
    order: tuple[str, ...]
    hypotheses: dict[str, Hypothesis]
    experiments: tuple[Experiment, ...] = ()
    baselines: Table = ()
    beside: tuple[Beside, ...] = ()
    reproduce: Reproduce

    def to_json(self) -> str:
        """Stable JSON: the same result gives the same bytes."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False) + "\n"

    def write(self, folder: Path) -> None:
        """Write ``result.json``; the one that stood there is kept beside it, to be compared with.

        One of another version cannot be compared, so that nothing is kept in its place.
        """
        file, kept = folder / "result.json", folder / PREVIOUS
        if file.exists():
            try:
                write_atomically(kept, Result.read(file).to_json())
            except RunFolderError:
                kept.unlink(missing_ok=True)
        write_atomically(file, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read a ``result.json``.

        Raises:
            RunFolderError: the file is missing, is not JSON, or is not of this schema.
        """
        try:
            return cls.model_validate_json(path.read_text("utf-8"))
        except OSError as error:
            raise RunFolderError(
                "result.absent",
                f"there is no result to read at {path}",
                got=error.strerror or str(error),
                next_step="run `etrm investigate --out DIR` first, then `etrm report DIR`",
            ) from error
        except (ValidationError, UnicodeDecodeError) as error:
            raise RunFolderError(
                "result.other-version",
                f"{path} is not a result of this version",
                got=_version(path) or str(error).splitlines()[0],
                allowed=f"schema_version {SCHEMA_VERSION}",
                next_step="run the investigation again",
            ) from error


def _version(path: Path) -> str:
    """The schema version that a file names, where it is another one."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError:
        return ""
    version = found.get("schema_version") if isinstance(found, dict) else None
    return "" if version in (None, SCHEMA_VERSION) else f"schema_version {version}"

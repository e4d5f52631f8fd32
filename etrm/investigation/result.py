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
from typing import Annotated, Any, Literal

from annotated_types import Interval, Len
from pydantic import BaseModel, ConfigDict, ValidationError, field_serializer, field_validator

from etrm.errors import RunFolderError
from etrm.files import write_atomically

SCHEMA_VERSION = 2
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
    """Base: immutable and closed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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


class Evidence(Record):
    """One row of an evidence table."""

    metric: str
    direction: Literal["higher is healthy", "lower is healthy", "must be equal", "must hold", "context"]
    control: Value | None = None  # the arm or baseline it is compared with
    treatment: Value  # what was measured in the subject
    low: float | None = None  # interval of the difference, where there is one
    high: float | None = None
    effect: Effect | None = None  # where a paired comparison decides the row
    threshold: str  # in words, with the number
    passed: bool | None  # None where the row is context and decides nothing
    n: str  # what was counted, e.g. "3 seeds x 150 steps"
    note: str = ""


class ControlOutcome(Record):
    """Did a control behave? If not, the verdict is ERROR."""

    name: str
    kind: Literal["positive", "negative"]
    what: str  # e.g. "fault cached-context on preset smoke"
    expected: Verdict
    got: Verdict
    behaved: bool
    detail: str
    candidate: bool = False  # what it got is one, and only its few seeds stand in the way of VALIDATED


class InstrumentCheck(Record):
    """Can the instruments be trusted in these runs?"""

    name: str
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
    sentence: str  # the verdict in one sentence with its numbers
    screening: bool = False
    candidate: bool = False  # only the number of seeds stood in the way of VALIDATED
    p_value: float | None = None  # of the gain it rests on, one-sided, Holm-adjusted within the hypothesis
    explained_by: str | None = (
        None  # the hypothesis whose fault, if it is present, makes this one hold or fail
    )
    arms: tuple[Arm, ...] = ()
    runs: tuple[Run, ...] = ()
    evidence: tuple[Evidence, ...] = ()
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


class Experiment(Record):
    """An experiment with scenarios rather than a verdict, such as the frozen decoder."""

    id: str
    title: str
    question: str
    scenario: str  # e.g. "A", "B", "C", "none"
    sentence: str
    scenarios: tuple[tuple[str, str], ...]  # (letter, what it would look like)
    screening: bool
    arms: tuple[Arm, ...] = ()
    runs: tuple[Run, ...] = ()
    evidence: tuple[Evidence, ...] = ()
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
    threads: int
    tier: str = ""  # of the budget; empty in results that were written before there were tiers
    wall_s: float
    config: dict[str, Any]


class Result(Record):
    """An investigation."""

    schema_version: int = SCHEMA_VERSION
    subject: str
    root_cause: str | None
    root_cause_confidence: Literal["proven", "candidate"] | None
    sentence: str
    next_step: str
    order: tuple[str, ...]
    hypotheses: dict[str, Hypothesis]
    experiments: tuple[Experiment, ...] = ()
    baselines: tuple[Evidence, ...] = ()
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
                got=str(error).splitlines()[0],
                allowed=f"schema_version {SCHEMA_VERSION}",
                next_step="run the investigation again",
            ) from error

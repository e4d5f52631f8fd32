"""What an investigation found: the closed schema of ``result.json``.

Everything that a report shows is here, the data of figures included, so that rendering is a pure
function of this file. A value that was not measured is ``NotMeasured`` with its reason, never 0.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval, Len
from pydantic import AliasChoices, Field, ValidationError

from etrm.atomic_files import write_atomically
from etrm.errors import RunFolderError
from etrm.investigation.evidence.figures import Figure, Series
from etrm.investigation.evidence.table import Table
from etrm.investigation.records import (
    Arm,
    Code,
    ControlOutcome,
    InstrumentCheck,
    Record,
    Run,
    ShownAnswer,
    Verdict,
)
from etrm.reference.departure import PipelineStage

SCHEMA_VERSION: Literal[3] = 3  # grows when an older reader would misread the file
EARLIER_KEY = "beside"  # of additional findings in earlier results
PREVIOUS = "result.previous.json"
"""File that keeps the earlier ``result.json`` of the same folder."""


class HypothesisResult(Record):
    """One hypothesis, decided."""

    id: str
    title: str
    statement: str
    refuted_by: str
    mechanism: str
    kind: Literal["mechanistic", "statistical", "mixed"]
    scope: Literal["part", "mechanism"] = "part"  # a mechanism may be that of a fault that another one names
    verdict: Verdict
    codes: Annotated[tuple[Code, ...], Len(1)]  # reasons for the verdict
    sentence: str  # the reasons in one sentence with their numbers
    screening: bool = False
    candidate: bool = False  # only the small number of seeds prevents VALIDATED
    p_value: float | None = (
        None  # for the gain that decides it, one-sided, Holm-adjusted within the hypothesis
    )
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
    decided_after_s: float | None = None  # seconds since the investigation began
    outside_code: tuple[
        str, ...
    ] = ()  # hashes of the code that decided it, where that is not of this package


class Scenario(StrEnum):
    """What an experiment shows."""

    LEARNS = "A"
    STUCK = "B"
    USELESS = "C"
    UNDECIDED = "none"
    CAUGHT = "caught"
    MISSED = "missed"


class ExperimentResult(Record):
    """An experiment with scenarios rather than a verdict, such as the frozen decoder."""

    id: str
    title: str
    question: str
    scenario: Scenario
    codes: Annotated[tuple[Code, ...], Len(1)]  # why
    sentence: str  # the reasons in one sentence with their numbers
    next_step: str = ""  # instruction to the user if no hypothesis is the root cause
    scenarios: tuple[tuple[Scenario, str], ...]  # the possible scenarios, each with its description
    screening: bool
    arms: tuple[Arm, ...] = ()
    runs: tuple[Run, ...] = ()
    evidence: Table = ()
    figures: tuple[Figure, ...] = ()
    series: tuple[Series, ...] = ()
    answers: tuple[ShownAnswer, ...] = ()  # of one run under test, to held-out tasks
    wall_s: float = 0.0


class AdditionalFinding(Record):
    """A finding of the toolkit in the runs under test, which decides no hypothesis."""

    rule: str
    severity: Literal["critical", "warning"]
    module: str  # empty for the whole model
    message: str
    code: str = ""  # code of the cause; empty in results of earlier versions
    cause: str
    remedy: str
    n: str = ""  # number of runs with this finding, in words


class RecordedDeparture(Record):
    """One value that differs from that of the reference, see :class:`etrm.reference.departure.Departure`."""

    stage: PipelineStage
    tensor: str
    size: Annotated[float, Interval(ge=0)]  # relative; the largest float where the real value is not finite
    limit: Annotated[float, Interval(ge=0)]
    where: str = ""
    step: int | None = None
    bucket: int | None = None


class ReferenceResult(Record):
    """The comparison of the run under test with an independent implementation of training and evaluation."""

    codes: Annotated[tuple[Code, ...], Len(1)]
    sentence: str
    steps: tuple[int, ...] = ()  # that were compared
    stage: PipelineStage | None = None  # the first that departs
    hypothesis: str | None = None  # to which that stage belongs; None where none does
    shared: bool | None = None  # the healthy control departs there too; None where that was not measured
    departures: tuple[RecordedDeparture, ...] = ()


class RecordedDifference(Record):
    """Something that a recorded run was made with and that is different now, so that the run may not repeat."""

    code: Code
    name: str  # e.g. "train.lr", "versions.torch"
    before: str
    now: str


class Accusation(Record):
    """A row of what a run recorded that did not pass."""

    hypothesis: str = ""  # the hypothesis that the row is evidence for; empty if it is evidence for none
    code: Code  # of the row
    item: str = ""  # of the row
    proves: bool = False  # whether the row alone shows that the hypothesis holds for the recorded run
    words: str


class RecordedRun(Record):
    """What a run folder holds: the run as it was recorded, judged before any new run is made."""

    folder: str
    steps: int  # logged optimiser steps
    checkpoints: tuple[int, ...] = ()  # steps of the kept checkpoints
    differences: tuple[RecordedDifference, ...] = ()
    evidence: Table = ()
    accusations: tuple[Accusation, ...] = ()
    undecided: tuple[str, ...] = ()  # what the run is too short to tell, in words
    figures: tuple[Figure, ...] = ()
    series: tuple[Series, ...] = ()
    wall_s: float = 0.0


class Reproduce(Record):
    """Everything that is needed to get the same numbers."""

    command: str
    commit: str
    dirty: bool
    seeds: tuple[int, ...]
    data_hash: str
    versions: dict[str, str]
    hardware: str
    device: str = (
        ""  # device of arms that are inspected and not trained; empty in results of earlier versions
    )
    precision: str = ""  # their precision; empty in results of earlier versions
    threads: int
    tier: str = ""  # tier of the budget; empty in results of earlier versions
    wall_s: float
    config: dict[str, Any]
    code: dict[str, str] = Field(
        default_factory=dict
    )  # SHA-256 of code from outside; empty in earlier results


class CauseCode(StrEnum):
    """Whether a root cause is named, and why not."""

    PROVEN = "cause.proven"
    CANDIDATE = "cause.candidate"
    ERROR = "cause.open-behind-an-error"
    RECORDED = (
        "cause.recorded-by-the-run"  # the run's own records show a fault that no tested hypothesis explains
    )
    OTHER_CODE = "cause.run-made-by-other-code"  # the current code does not repeat a step of the run
    DEPARTS = "cause.departs-from-the-reference"  # at a stage that belongs to no tested hypothesis
    UNTESTED = (
        "cause.perhaps-one-not-selected"  # what holds may be explained by a hypothesis that was not selected
    )
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
    hypotheses: dict[str, HypothesisResult]
    experiments: tuple[ExperimentResult, ...] = ()
    baselines: Table = ()
    additional_findings: tuple[AdditionalFinding, ...] = Field(
        (), validation_alias=AliasChoices("additional_findings", EARLIER_KEY)
    )
    reference: ReferenceResult | None = None  # None in results of earlier versions
    recorded: RecordedRun | None = None  # None where no run folder was investigated, and in earlier results
    reproduce: Reproduce

    def to_json(self) -> str:
        """Stable JSON: the same result gives the same bytes."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False) + "\n"

    def write(self, folder: Path) -> None:
        """Write ``result.json``; an earlier one is kept next to it, for comparison.

        A result of another version cannot be compared and is not kept.
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
    """The schema version that a file names, if it differs from this one."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError:
        return ""
    version = found.get("schema_version") if isinstance(found, dict) else None
    return "" if version in (None, SCHEMA_VERSION) else f"schema_version {version}"

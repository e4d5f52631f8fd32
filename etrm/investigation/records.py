"""What a result holds of runs, arms and controls: the base of its closed schema."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from annotated_types import Len
from pydantic import (
    BaseModel,
    ConfigDict,
    StringConstraints,
)


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
"""A stable name, ``<part>.<what>``: what a reader or a program may rely on, while the words next to it may change."""


class NotMeasured(Record):
    """A value that could not be had, and why."""

    absent: str


Value = float | NotMeasured


class EnvironmentChange(Record):
    """What computed a run changed before its end: the run was stopped and resumed elsewhere."""

    step: int  # optimiser steps done before the change
    name: str  # e.g. "device", "threads", "versions.torch"
    before: str
    now: str


Cells = tuple[tuple[int, ...], ...]
"""The colours of a grid, row by row; empty where there is no grid."""


class ShownAnswer(Record):
    """The first answer of a run to a test query, with the input and the true output."""

    task: str
    query: int
    input: Cells
    target: Cells
    answer: Cells
    solved: bool


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


Role = Literal["subject", "control", "treatment", "positive control", "negative control"]
"""What an arm is run for; ``subject`` is the run under test."""


class Arm(Record):
    """A named setting that was run, and the one thing in which it differs."""

    name: str
    role: Role
    difference: str
    settings: tuple[str, ...] = ()  # section.key=value, the changes to the config under test
    faults: tuple[str, ...] = ()


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
    candidate: bool = False  # only the small number of seeds prevents VALIDATED


class InstrumentCheck(Record):
    """Can the instruments be trusted in these runs?"""

    code: Code
    name: str  # what must hold, in words
    passed: bool | None  # None: there is nothing that it could be checked on
    detail: str

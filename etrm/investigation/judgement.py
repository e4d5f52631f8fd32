"""A verdict with its reasons, and the reasons that any hypothesis can have."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from etrm.investigation.records import Code, Verdict


class CommonReason(StrEnum):
    """Reasons that any hypothesis can have for its verdict; its own are in its module."""

    CONTROLS_MISBEHAVED = "any.controls-misbehaved"
    SUBJECT_NOT_BUILT = "any.subject-not-built"
    RUNS_FAILED = "any.runs-failed"
    NOT_SELECTED = "any.not-selected"
    NOT_APPLICABLE = "any.not-applicable"  # the model has no such part, or does not use it
    STOPPED_AT_ROOT_CAUSE = "any.stopped-at-root-cause"
    DOWNSTREAM = "any.downstream-of-root-cause"
    CRASHED = "any.crashed"
    RECORDED = "any.recorded-in-the-run"
    NOT_SIGNIFICANT = "any.not-significant-over-all-hypotheses"


@dataclass(frozen=True)
class Judgement:
    """A verdict and why.

    Attributes:
        verdict: the verdict on the statement as worded.
        codes: stable names of the reasons, at least one.
        sentence: the same in words, with the numbers.
        candidate: more seeds would make it VALIDATED, or an input without which another cause looks the same.
    """

    verdict: Verdict
    codes: tuple[Code, ...]
    sentence: str
    candidate: bool = False

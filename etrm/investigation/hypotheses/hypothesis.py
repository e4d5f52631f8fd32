"""The interface of a hypothesis: a statement that is fixed before any run, and a way to decide it.

A hypothesis is one object in one file. A module of this package names its object ``HYPOTHESIS``; one from outside the
package is added by :func:`etrm.investigation.hypotheses.hypothesis_registry.register`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol

from etrm.investigation.records import Arm, Code, Verdict
from etrm.investigation.result import HypothesisResult

if TYPE_CHECKING:  # both import this module
    from etrm.investigation.comparison.screening import Screen
    from etrm.investigation.session import Investigation


class CommonReason(StrEnum):
    """Reasons that any hypothesis can have for its verdict; its own are in its module."""

    CONTROLS_MISBEHAVED = "any.controls-misbehaved"
    SUBJECT_NOT_BUILT = "any.subject-not-built"
    RUNS_FAILED = "any.runs-failed"
    NOT_SELECTED = "any.not-selected"
    NOT_APPLICABLE = "any.not-applicable"  # the model has no such part, or does not use it
    STOPPED_AT_ROOT_CAUSE = "any.stopped-at-root-cause"
    DOWNSTREAM = "any.downstream-of-root-cause"
    NOT_SIGNIFICANT = "any.not-significant-over-all-hypotheses"


@dataclass(frozen=True)
class Judgement:
    """A verdict and why.

    Attributes:
        verdict: the verdict on the statement as worded.
        codes: stable names of the reasons, at least one.
        sentence: the same in words, with the numbers.
        candidate: only the small number of seeds prevents VALIDATED.
    """

    verdict: Verdict
    codes: tuple[Code, ...]
    sentence: str
    candidate: bool = False


@dataclass(frozen=True)
class Statement:
    """A hypothesis as registered: these words decide what a verdict means."""

    id: str
    title: str
    statement: str
    refuted_by: str
    mechanism: str
    kind: Literal["mechanistic", "statistical", "mixed"]
    would_change: str

    def decided(self, judgement: Judgement, **found: Any) -> HypothesisResult:
        """The hypothesis with its verdict, why, and the other fields of what was found.

        Raises:
            ValidationError: a field that does not exist, or a value that it does not take.
        """
        return HypothesisResult(**asdict(self), **vars(judgement), **found)


class Hypothesis(Protocol):
    """A possible cause, and how an investigation decides whether it holds.

    Derive from this class: ``statement``, ``next_step`` and ``decide`` are required, the other members have defaults.

    Attributes:
        statement: the registered words; a verdict is about them.
        next_step: the next step if this hypothesis is the root cause.
        precedence: place in the order of deciding, lower first. A fault of an earlier hypothesis can make a later one
            look at fault; the default comes after all hypotheses of this package.
        controls: names of the faults that must be found; each is injected into the control preset.
    """

    statement: Statement
    next_step: str
    precedence: int = 100
    controls: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Short name, such as ``H2``: the choice on the command line, and the name of its page."""
        return self.statement.id

    def arms(self, investigation: Investigation) -> tuple[Arm, ...]:
        """The settings that are inspected or run, the run under test first."""
        return ()

    def screens(self, investigation: Investigation) -> Sequence[Screen]:
        """Short runs that it needs whatever is found before, so that they can run in parallel with other work."""
        return ()

    def decide(self, investigation: Investigation) -> HypothesisResult:
        """Inspect or run what it takes, and return ``self.statement.decided(judgement, ...)``."""
        ...

    def not_run(self, code: Code, reason: str) -> HypothesisResult:
        """The result that gives the reason why it was not decided."""
        return self.statement.decided(Judgement(Verdict.NOT_RUN, (code,), reason))

"""The interface of a hypothesis: a statement that is fixed before any run, and a way to decide it.

A hypothesis is one object in one file. A module of this package names its object ``HYPOTHESIS``; one from outside the
package is added by :func:`etrm.investigation.hypotheses.hypothesis_registry.register`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from etrm.config import Config
from etrm.investigation.comparison.screening import Screen
from etrm.investigation.judgement import Judgement
from etrm.investigation.records import Arm, Code, Verdict
from etrm.investigation.result import HypothesisResult
from etrm.investigation.session import Investigation


@dataclass(frozen=True)
class Statement:
    """A hypothesis as registered: these words decide what a verdict means.

    With the scope ``mechanism`` it shows how a part fails, and another hypothesis may name the same fault.
    """

    id: str
    title: str
    statement: str
    refuted_by: str
    mechanism: str
    kind: Literal["mechanistic", "statistical", "mixed"]
    would_change: str
    scope: Literal["part", "mechanism"] = "part"

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

    @property
    def study(self) -> str:
        """Name of its arms and of its cached control outcomes. It must not change: folders are found by it."""
        return self.id.lower()

    def applies_to(self, subject: Config) -> bool:
        """Whether it is about models of this kind. One that does not apply is listed only if it is selected."""
        return True

    def arms(self, investigation: Investigation) -> tuple[Arm, ...]:
        """The settings that are inspected or run, the run under test first."""
        return ()

    def screens(self, investigation: Investigation) -> Sequence[Screen]:
        """Short runs that it needs whatever is found before, so that they can run in parallel with other work."""
        return ()

    def is_short(self, investigation: Investigation) -> bool:
        """Whether it can be decided before the long runs: it is mechanistic, unless a derived class says otherwise."""
        return self.statement.kind == "mechanistic"

    def decide(self, investigation: Investigation) -> HypothesisResult:
        """Inspect or run what it takes, and return ``self.statement.decided(judgement, ...)``."""
        ...

    def not_run(self, code: Code, reason: str) -> HypothesisResult:
        """The result that gives the reason why it was not decided."""
        return self.statement.decided(Judgement(Verdict.NOT_RUN, (code,), reason))

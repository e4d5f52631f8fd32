"""Hypotheses about an own model: the interface, and those that are decided by assertions with controls."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from etrm.errors import EtrmError, ExtensionError
from etrm.investigation.controls import HEALTHY, broken_controls, control_outcome
from etrm.investigation.evidence.figures import Figure, Series
from etrm.investigation.evidence.table import EvidenceRow
from etrm.investigation.evidence.words import capitalise
from etrm.investigation.hypotheses.hypothesis import Statement
from etrm.investigation.hypotheses.inspection import describe_scope
from etrm.investigation.judgement import CommonReason, Judgement
from etrm.investigation.own_model.adapter_errors import is_refusal
from etrm.investigation.own_model.healthy_reference import REFERENCE
from etrm.investigation.own_model.injected_faults import InjectedFault
from etrm.investigation.own_model.model_factory import ModelFactory
from etrm.investigation.own_model.model_under_test import ModelUnderTest
from etrm.investigation.own_model.short_runs import ShortRuns
from etrm.investigation.records import Arm, Code, ControlOutcome, NotMeasured, Verdict
from etrm.investigation.result import AdditionalFinding, HypothesisResult

HEALTHY_SEEDS = 3
"""Seeds of the short runs of the healthy model, in which a lead that more seeds would prove counts as found."""
MOST_NAMED = 3
"""Reasons in the sentence of a verdict; the table of evidence has all of them."""


class OwnModelReason(StrEnum):
    """Reasons for a verdict about an own model that are no failed row."""

    SOUND = "own.sound"
    INPUT_MISSING = "own.input-missing"
    ROWS_REPEAT = "own.rows-repeat"
    LABELS_ARE_INPUTS = "own.labels-are-inputs"
    ADAPTER_REFUSED = "own.adapter-refused"


@dataclass
class OwnModelSession:
    """What the hypotheses of one investigation share.

    Attributes:
        factory: the factory of the model under test.
        subject: one model under test, which nothing trains.
        root: the folder of the investigation.
        seeds: seeds of the inspections.
        short_seeds: seeds of the short runs.
        progress: called with a phase, the parts done and the parts in all.
        on_refusal: called with an error of the adapter that ends a hypothesis.
        findings: findings of the toolkit that decide no hypothesis.
    """

    factory: ModelFactory
    subject: ModelUnderTest
    root: Path
    seeds: tuple[int, ...]
    short_seeds: tuple[int, ...]
    progress: Callable[[str, int, int], None]
    on_refusal: Callable[[ExtensionError], None] = lambda error: None
    findings: list[AdditionalFinding] = field(default_factory=list)

    @cached_property
    def runs(self) -> ShortRuns:
        """The short runs of the model under test, each made once."""
        return ShortRuns(self.factory, self.root, "short", self.short_seeds)

    @cached_property
    def healthy_runs(self) -> ShortRuns:
        """The same of the healthy model."""
        return ShortRuns(REFERENCE, None, "healthy", self.short_seeds[:HEALTHY_SEEDS])


@dataclass(frozen=True)
class CheckedRow:
    """A row of evidence, and what it means if it does not pass.

    Attributes:
        row: the row.
        words: the failure in words, with the numbers; "" where another row names it.
        left_out: the code of the reason why it was not measured, if it has one.
    """

    row: EvidenceRow
    words: str = ""
    left_out: OwnModelReason | None = None

    @property
    def failed(self) -> bool:
        """Whether the row shows a fault."""
        return self.row.passed is False


@dataclass(frozen=True)
class InspectedModel:
    """The outcome of the checks on one model.

    Attributes:
        checks: the checked rows.
        curves: curves of the figures.
        findings: findings of the toolkit that decide nothing.
        explained_by: id of the hypothesis whose fault alone would produce the failures.
    """

    checks: tuple[CheckedRow, ...]
    curves: tuple[Series, ...] = ()
    findings: tuple[AdditionalFinding, ...] = ()
    explained_by: str | None = None

    @property
    def failed(self) -> list[CheckedRow]:
        """The rows that show a fault."""
        return [check for check in self.checks if check.failed]

    def judge(self, scope: str = "") -> Judgement:
        """VALIDATED if a row failed, else INVALIDATED.

        Args:
            scope: the sample of the verdict, for the end of the sentence.
        """
        if self.failed:
            words = [check.words for check in self.failed if check.words]
            more = f"; and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else ""
            sentence = f"{capitalise('; '.join(words[:MOST_NAMED]))}{more}"
            codes = tuple(dict.fromkeys(check.row.code for check in self.failed))
            return Judgement(Verdict.VALIDATED, codes, f"{sentence} {scope}".rstrip() + ".")
        passed = sum(check.row.passed is True for check in self.checks)
        left = [
            check.row.treatment.absent
            for check in self.checks
            if isinstance(check.row.treatment, NotMeasured)
        ]
        without = f"; {len(left)} are left out: {'; '.join(dict.fromkeys(left))}" if left else ""
        sentence = f"{f'All {passed} checks pass {scope}'.rstrip()}{without}"
        reasons = dict.fromkeys(check.left_out for check in self.checks if check.left_out)
        return Judgement(Verdict.INVALIDATED, (OwnModelReason.SOUND, *reasons), f"{sentence}.")


class OwnHypothesis(ABC):
    """A possible cause, decided for a model that is not of this project."""

    statement: Statement
    next_step: str

    @abstractmethod
    def find_missing(self, subject: ModelUnderTest) -> str:
        """What the adapter would have to give so that this can be decided, in words; nothing if it gives enough."""

    @abstractmethod
    def decide(self, session: OwnModelSession) -> HypothesisResult:
        """Inspect or run what it takes."""

    def not_run(self, code: Code, reason: str) -> HypothesisResult:
        """The result that gives the reason why it was not decided."""
        return self.statement.decided(Judgement(Verdict.NOT_RUN, (code,), reason))


class InspectedHypothesis(OwnHypothesis):
    """A hypothesis that is decided by assertions on each seed, with controls made from the model under test."""

    figures: tuple[Figure, ...] = ()

    @abstractmethod
    def inspect(self, factory: ModelFactory, seed: int) -> InspectedModel:
        """Build a model and check it."""

    @abstractmethod
    def list_faults(self, subject: ModelUnderTest) -> tuple[InjectedFault, ...]:
        """The faults that must be found in the model under test."""

    def decide(self, session: OwnModelSession) -> HypothesisResult:
        """Inspect the model with every seed, and the controls; the seed with most failures decides."""
        began, id = time.perf_counter(), self.statement.id
        faults = self.list_faults(session.subject)
        total = len(session.seeds) + len(faults) + 1
        inspected = []
        for done, seed in enumerate(session.seeds):
            session.progress(id, done, total)
            inspected.append(self.inspect(session.factory, seed))
        controls = [self._judge_control(REFERENCE)]
        for done, fault in enumerate(faults):
            session.progress(id, len(session.seeds) + 1 + done, total)
            controls.append(self._judge_control(fault.apply(session.factory), fault))
        session.progress(id, total, total)
        worst = max(inspected, key=lambda one: len(one.failed))
        session.findings.extend(worst.findings)
        judgement = worst.judge(describe_scope(len(inspected)))
        if broken := broken_controls(controls):
            judgement = Judgement(Verdict.ERROR, (CommonReason.CONTROLS_MISBEHAVED,), broken)
        return self.statement.decided(
            judgement,
            explained_by=worst.explained_by if judgement.verdict is Verdict.VALIDATED else None,
            arms=describe_arms(id.lower(), faults),
            evidence=tuple(check.row for check in worst.checks),
            controls=tuple(controls),
            figures=self.figures if worst.curves else (),
            series=worst.curves,
            wall_s=round(time.perf_counter() - began, 1),
        )

    def _judge_control(self, factory: ModelFactory, fault: InjectedFault | None = None) -> ControlOutcome:
        what = f"the model under test, {fault.what}" if fault else "a small healthy model of this project"
        try:
            judgement = self.inspect(factory, 0).judge()
        except EtrmError as error:
            if fault is not None and is_refusal(error):  # by the user's code, which the fault does not suit
                what = f"a small healthy model of this project, {fault.what}; the model under test refuses it"
                judgement = self.inspect(fault.apply(REFERENCE), 0).judge()
            else:
                judgement = Judgement(Verdict.ERROR, (CommonReason.SUBJECT_NOT_BUILT,), error.brief)
        return control_outcome(fault.name if fault else HEALTHY, fault is not None, judgement, what)


def describe_arms(study: str, faults: Sequence[InjectedFault]) -> tuple[Arm, ...]:
    """The model under test, and the controls made from it."""
    controls = (
        Arm(
            name=f"{study}-{fault.name}", role="positive control", difference=fault.what, faults=(fault.name,)
        )
        for fault in faults
    )
    healthy = Arm(name=f"{study}-{HEALTHY}", role="negative control", difference="a small healthy model")
    return (Arm(name=f"{study}-model", role="subject", difference="unchanged"), healthy, *controls)

"""N4: only a regulariser teaches the selector.

Mechanistic: the gradient of each term of the loss in the encoder, which weighs the templates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from diagnostics.auditing.responses import TermResponse
from diagnostics.records import Absent
from etrm.config import Config, with_settings
from etrm.investigation.controls import Control
from etrm.investigation.evidence.reasons import InspectionFacts, VerdictReason
from etrm.investigation.evidence.table import Direction, EvidenceRow, Metric
from etrm.investigation.evidence.words import format_seeds
from etrm.investigation.hypotheses.hypothesis import Statement
from etrm.investigation.hypotheses.symbolic_hypothesis import (
    InspectedMechanism,
    control_config,
    fault_controls,
)
from etrm.investigation.measurements.solver_step import QUERIES, TASK, measure_responses
from etrm.investigation.records import NotMeasured, Value

STATEMENT = Statement(
    id="N4",
    title="Training of the selector",
    statement="Only a regulariser trains the selector.",
    refuted_by="The loss of the answers has a gradient in the selector, or no other term of the loss has one.",
    mechanism=(
        "If the best template is chosen by argmax, the loss of the answers never reaches the selector, but a "
        "penalty on the entropy of its weights does. The gradients look healthy, and the selector collapses on an "
        "arbitrary template."
    ),
    kind="mechanistic",
    would_change="A gradient of the loss of the answers in the selector.",
    scope="mechanism",
)
FAULT = "hard-selection"
PENALTY = 0.01
"""Weight of the entropy in the controls, that of the original solver."""


class TeacherReason(StrEnum):
    """Which terms of the loss teach the selector."""

    REGULARISER_ALONE = "n4.regulariser-alone"
    TASK = "n4.answers-teach"
    NOTHING = "n4.nothing-teaches"


@dataclass(frozen=True)
class TeacherFacts(InspectionFacts):
    """How the terms of the loss depend on the weights of the selector.

    Attributes:
        terms: the response of each term.
    """

    terms: Mapping[str, TermResponse]

    @property
    def teachers(self) -> list[str]:
        """Terms with a gradient that is not zero."""
        return [name for name, found in self.terms.items() if found.gradient == "some"]

    @property
    def holds(self) -> bool:
        """Whether terms teach the selector and the loss of the answers is not among them."""
        unknown = isinstance(self.terms[TASK].gradient, Absent)
        return bool(self.teachers) and TASK not in self.teachers and not unknown

    @property
    def reasons(self) -> list[VerdictReason]:
        """Which terms teach the selector."""
        response = f"the response test calls it {self.terms[TASK].verdict}"
        if self.holds:
            words = (
                f"the loss of the answers has no gradient in the selector ({response}), and "
                f"{', '.join(self.teachers)} has one"
            )
            return [VerdictReason(TeacherReason.REGULARISER_ALONE, words)]
        if not self.teachers:
            words = f"no term of the loss has a gradient in the selector ({response})"
            return [VerdictReason(TeacherReason.NOTHING, words)]
        words = (
            f"the loss of the answers has a gradient in the selector, trained by {', '.join(self.teachers)}"
        )
        return [VerdictReason(TeacherReason.TASK, words)]


NORM = Metric("n4.gradient-norm", "norm of the gradient of the term {item} in the selector", Direction.HOLDS)


class RegulariserAlone(InspectedMechanism[TeacherFacts]):
    """N4."""

    statement = STATEMENT
    precedence = 94
    controls = (FAULT,)
    next_step = (
        "Let the loss of the answers reach the selector: a mixture of the templates instead of argmax "
        "(model.symbolic.selection = soft or straight_through). Page N4 shows which terms train it."
    )

    def inspect(self, config: Config) -> TeacherFacts:
        """The gradient of each term of the loss in the selector of a model as a run would build it.

        Raises:
            EtrmError: the model cannot be built, or its loss is not finite.
        """
        return TeacherFacts(measure_responses(config)["encoder"])

    def list_controls(self) -> list[Control]:
        """The control preset with a penalty on the entropy, healthy and with the fault."""
        return fault_controls(with_settings(control_config(), train={"entropy_weight": PENALTY}), FAULT)

    def make_rows(self, worst: TeacherFacts, seeds: int) -> list[EvidenceRow]:
        """The gradient of each term."""
        return [_make_row(name, found, seeds) for name, found in worst.terms.items()]


def _make_row(name: str, found: TermResponse, seeds: int) -> EvidenceRow:
    norm: Value = NotMeasured(absent=found.norm.reason) if isinstance(found.norm, Absent) else found.norm
    decides = name == TASK and not isinstance(found.gradient, Absent)
    return NORM.row(
        norm,
        item=name,
        threshold="> 0" if name == TASK else "context: a regulariser",
        passed=found.gradient == "some" if decides else None,
        n=f"{QUERIES} queries of {format_seeds(seeds)}, worst",
        note=f"response test: {found.verdict}; change with other weights {found.change:.2g}",
    )


HYPOTHESIS = RegulariserAlone()

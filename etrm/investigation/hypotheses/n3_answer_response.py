"""N3: the answer does not depend on the weights.

Mechanistic: the weights are changed, and the loss of the answer must change with them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from diagnostics.auditing.responses import TermResponse
from etrm.config import Config
from etrm.investigation.evidence.reasons import InspectionFacts, VerdictReason
from etrm.investigation.evidence.table import Direction, EvidenceRow, Metric
from etrm.investigation.evidence.words import format_seeds
from etrm.investigation.hypotheses.hypothesis import Statement
from etrm.investigation.hypotheses.inspection import describe_scope, judge, judge_by, judge_controls
from etrm.investigation.hypotheses.symbolic_hypothesis import (
    SymbolicHypothesis,
    control_config,
    describe_arms,
    fault_controls,
)
from etrm.investigation.measurements.solver_step import QUERIES, TASK, measure_responses
from etrm.investigation.records import Arm
from etrm.investigation.result import HypothesisResult
from etrm.investigation.session import Investigation

STATEMENT = Statement(
    id="N3",
    title="Response of the answer",
    statement="The answer does not depend on the weights.",
    refuted_by="With other weights, the loss of the answers changes by more than 1e-4 nats per query.",
    mechanism=(
        "If every formula returns its input, for instance because an assignment is written to a copy, the loss depends "
        "only on the data. A regulariser still gives the weights gradients, so they move but the answer does not."
    ),
    kind="mechanistic",
    would_change="Other weights that change the loss of the answers by more than rounding.",
    scope="mechanism",
)
ROUNDING = 1e-4
"""Nats per query. Where the answer is the query, weights that sum to 1 up to rounding move the loss by 1e-7."""
FAULT = "assignment-lost"
MODEL = ""
"""The whole model, as the response test names it."""


class ResponseReason(StrEnum):
    """What the response test shows."""

    CONSTANT = "n3.answer-without-response"
    RESPONDS = "n3.answer-responds"


@dataclass(frozen=True)
class ResponseFacts(InspectionFacts):
    """How the loss of the answers depends on the weights.

    Attributes:
        parts: the response of that loss by part of the model; ``""`` is the whole model.
    """

    parts: Mapping[str, TermResponse]

    @property
    def change(self) -> float:
        """The largest change of the loss per query with other weights of the whole model."""
        return self.parts[MODEL].change / QUERIES

    @property
    def holds(self) -> bool:
        """Whether no change of the weights changes the loss by more than rounding."""
        return self.change <= ROUNDING

    @property
    def reasons(self) -> list[VerdictReason]:
        """What the response test shows."""
        if self.holds:
            words = f"no change of the weights changes the loss of the answers (by {self.change:.1g} nats per query)"
            return [VerdictReason(ResponseReason.CONSTANT, words)]
        words = f"other weights change the loss of the answers by {self.change:.2g} nats per query"
        return [VerdictReason(ResponseReason.RESPONDS, words)]


def inspect_response(config: Config) -> ResponseFacts:
    """Change the weights of a model as a run would build it.

    Raises:
        EtrmError: the model cannot be built, or its loss is not finite.
    """
    return ResponseFacts({part: terms[TASK] for part, terms in measure_responses(config).items()})


class AnswerResponse(SymbolicHypothesis):
    """N3."""

    statement = STATEMENT
    precedence = 93
    controls = (FAULT,)
    next_step = (
        "Look for what makes the output equal to the input: an assignment to a copy, a formula that is always applied, "
        "or a loss that does not read the answer. Page N3 shows which part has no effect."
    )

    def arms(self, investigation: Investigation) -> tuple[Arm, ...]:
        """The config under test and the controls, which are inspected."""
        return describe_arms(self.study, investigation.subject, fault_controls(control_config(), FAULT))

    def decide(self, investigation: Investigation) -> HypothesisResult:
        """Change the weights of every seed and of the controls."""
        began = time.perf_counter()
        controls = judge_controls(
            self.study, fault_controls(control_config(), FAULT), judge_by(inspect_response)
        )
        seen, error = investigation.inspect_seeds(self.id, investigation.subject, inspect_response)
        worst = min(seen, key=lambda found: found.change, default=None)
        return self.statement.decided(
            judge(worst, error, controls, describe_scope(len(seen))),
            arms=self.arms(investigation),
            evidence=_make_rows(worst, len(seen)) if worst else (),
            controls=controls,
            wall_s=round(time.perf_counter() - began, 1),
        )


CHANGE = Metric(
    "n3.change", "change of the loss of the answers with other weights of {item}", Direction.HOLDS
)


def _make_rows(facts: ResponseFacts, seeds: int) -> tuple[EvidenceRow, ...]:
    return tuple(_make_row(part, found, seeds) for part, found in facts.parts.items())


def _make_row(part: str, found: TermResponse, seeds: int) -> EvidenceRow:
    """The row of one part; only that of the whole model decides, for a part may have no weights."""
    change = found.change / QUERIES
    gradient = found.gradient if isinstance(found.gradient, str) else found.gradient.reason
    return CHANGE.row(
        change,
        item=part or "model",
        item_words=f"the {part or 'whole model'}",
        threshold="context" if part else f"> {ROUNDING:g} nats per query",
        passed=None if part else change > ROUNDING,
        n=f"{QUERIES} queries of {format_seeds(seeds)}, worst",
        note=f"gradient: {gradient}; response test: {found.verdict}",
    )


HYPOTHESIS = AnswerResponse()

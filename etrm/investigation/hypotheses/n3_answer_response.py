"""N3: the answer does not depend on the weights.

Mechanistic: the weights are changed, and the loss of the answer must change with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from diagnostics.auditing.responses import TermResponse
from etrm.config import Config
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


CHANGE = Metric(
    "n3.change", "change of the loss of the answers with other weights of {item}", Direction.HOLDS
)


class AnswerResponse(InspectedMechanism[ResponseFacts]):
    """N3."""

    statement = STATEMENT
    precedence = 93
    controls = (FAULT,)
    next_step = (
        "Look for what makes the output equal to the input: an assignment to a copy, a formula that is always applied, "
        "or a loss that does not read the answer. Page N3 shows which part has no effect."
    )

    def inspect(self, config: Config) -> ResponseFacts:
        """Change the weights of a model as a run would build it.

        Raises:
            EtrmError: the model cannot be built, or its loss is not finite.
        """
        return ResponseFacts({part: terms[TASK] for part, terms in measure_responses(config).items()})

    def rank(self, found: ResponseFacts) -> tuple[float, ...]:
        """The smallest change decides."""
        return (-found.change,)

    def list_controls(self) -> list[Control]:
        """The control preset, healthy and with the fault."""
        return fault_controls(control_config(), FAULT)

    def make_rows(self, worst: ResponseFacts, seeds: int) -> list[EvidenceRow]:
        """The response of each part."""
        return [_make_row(part, found, seeds) for part, found in worst.parts.items()]


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

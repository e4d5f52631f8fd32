"""N2: the way in which formulas are evaluated keeps the predicates from learning.

Mechanistic: the same weights are evaluated by the run under test, vectorised, in a Python loop, and with values that are
read as Python numbers. Runs on the rule family show what a read costs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from etrm.config import Config, with_settings
from etrm.evaluation import paired_t_interval
from etrm.investigation.controls import HEALTHY, Control, subject_arm
from etrm.investigation.evidence.figures import Figure, Series, logged_curve, smooth
from etrm.investigation.evidence.reasons import InspectionFacts, VerdictReason
from etrm.investigation.evidence.table import Direction, Effect, EvidenceRow, Metric
from etrm.investigation.evidence.words import format_seeds
from etrm.investigation.hypotheses.hypothesis import Statement
from etrm.investigation.hypotheses.inspection import describe_scope, judge, judge_controls, judge_inspection
from etrm.investigation.hypotheses.symbolic_hypothesis import (
    SYMBOLIC_PRESET,
    SymbolicHypothesis,
    control_config,
    describe_arms,
)
from etrm.investigation.judgement import CommonReason
from etrm.investigation.measurements.solver_step import build_step, compare_gradients, with_other_faults
from etrm.investigation.records import Arm, NotMeasured, Value
from etrm.investigation.result import HypothesisResult
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.jobs import Job
from etrm.investigation.runs.loaded_run import LoadedRun, records_of
from etrm.investigation.session import Investigation, with_seed

STATEMENT = Statement(
    id="N2",
    title="Evaluation of predicates",
    statement="The way in which formulas are evaluated keeps the predicates from learning.",
    refuted_by=(
        "With the same weights, the predicates of the run have the gradients of the vectorised evaluator within 1e-4 "
        "of the largest one."
    ),
    mechanism=(
        "The graph ends where a truth is read as a Python number: .item(), float(), int(). A Python loop that keeps "
        "tensors costs time and no gradient, so two references are evaluated next to the run: a loop, and a read."
    ),
    kind="mixed",
    would_change="A gradient of the predicates that differs from that of the vectorised evaluator, or no longer does.",
)
EQUAL = 1e-4
"""Largest difference of two gradients or of two answers that rounding makes, relative for gradients."""
LOOP, READ = "python-loop-predicates", "predicates-item"
"""The healthy control whose loop keeps the graph, and the fault that reads every value as a Python number."""
STEPS, SIDE, SEEDS = 60, 4, (0, 1, 2)
"""Length, grid side and seeds of the runs that show the cost: 10 s each on a core, made once and kept."""
SOLVED = "held_out_pass_at_1"
WORTH = 0.1
"""m, in the share of unseen rules that are solved. Seeds of the preset differ by .1 to .2 after so few steps."""


class EvaluationReason(StrEnum):
    """What the gradients of the predicates show."""

    CUT = "n2.predicates-without-gradient"
    CHANGED = "n2.predicates-with-other-gradient"
    EQUAL = "n2.gradient-of-the-reference"
    OTHER_ANSWERS = "n2.other-answers"
    UNREGISTERED = "n2.predicates-in-no-module"
    LOOP_KEEPS = "n2.loop-keeps-gradient"
    READ_CUTS = "n2.scalar-read-cuts-gradient"


@dataclass(frozen=True)
class EvaluationFacts(InspectionFacts):
    """The gradients of the predicates with the same weights and queries.

    Attributes:
        tensors: number of tensors of the predicates; 0 if no module of the model has them.
        reached: tensors that have a gradient in the run under test.
        answers: largest difference of a log probability between the run and the vectorised evaluator.
        run: difference of the run's gradients from those of the vectorised evaluator, relative to their largest.
        loop: the same of a Python loop.
        read: the same of values that are read as Python numbers.
        read_reached: tensors that have a gradient with them.
    """

    tensors: int
    reached: int
    answers: float
    run: float
    loop: float
    read: float
    read_reached: int

    @property
    def holds(self) -> bool:
        """Whether the run loses gradients of the predicates although it gives the answers of the reference."""
        return bool(self.tensors) and self.answers <= EQUAL and self.run > EQUAL

    @property
    def loop_is_the_cause(self) -> bool:
        """Whether a loop alone changes the gradients."""
        return self.loop > EQUAL

    @property
    def reasons(self) -> list[VerdictReason]:
        """What the run does to the gradients, and what a loop and a read do."""
        if not self.tensors:
            words = "no module of the model has the predicates, so no gradient of them can be compared"
            return [VerdictReason(EvaluationReason.UNREGISTERED, words)]
        return [self._describe_run(), *self._describe_references()]

    def _describe_run(self) -> VerdictReason:
        reached = f"{self.reached} of {self.tensors} tensors of the predicates have a gradient"
        if self.answers > EQUAL:
            words = f"the run gives other answers than the vectorised evaluator (by {self.answers:.2g}); {reached}"
            return VerdictReason(EvaluationReason.OTHER_ANSWERS, words)
        if self.run <= EQUAL:
            words = f"the gradients are those of the vectorised evaluator (within {self.run:.1g}); {reached}"
            return VerdictReason(EvaluationReason.EQUAL, words)
        code = EvaluationReason.CHANGED if self.reached else EvaluationReason.CUT
        words = f"{reached}, and the answers are those of the vectorised evaluator, where all have one"
        return VerdictReason(code, words)

    def _describe_references(self) -> list[VerdictReason]:
        found = []
        if not self.loop_is_the_cause:
            words = f"a Python loop is not the cause: its gradients are equal within {self.loop:.1g}"
            found.append(VerdictReason(EvaluationReason.LOOP_KEEPS, words))
        if not self.read_reached:
            words = "a value that is read as a Python number leaves no gradient"
            found.append(VerdictReason(EvaluationReason.READ_CUTS, words))
        return found


def compare_evaluations(config: Config) -> EvaluationFacts:
    """Evaluate the weights of a config as its run does, vectorised, in a loop, and with a read.

    Raises:
        EtrmError: a model cannot be built.
    """
    reference = build_step(with_other_faults(config))
    run = build_step(config, reference.samples)
    tensors = len(run.predicates)
    if not tensors:
        return EvaluationFacts(0, 0, *[float("nan")] * 4, 0)
    weights = run.model.state_dict()
    reference, loop, read = (
        build_step(with_other_faults(config, *faults), reference.samples, weights)
        for faults in ((), (LOOP,), (READ,))
    )
    wanted = reference.compute_gradients(reference.predicates)
    found, looped, cut = (step.compute_gradients(step.predicates) for step in (run, loop, read))
    return EvaluationFacts(
        tensors=tensors,
        reached=sum(grad is not None for grad in found.values()),
        answers=float((run.answer - reference.answer).abs().max()),
        run=compare_gradients(wanted, found),
        loop=compare_gradients(wanted, looped),
        read=compare_gradients(wanted, cut),
        read_reached=sum(grad is not None for grad in cut.values()),
    )

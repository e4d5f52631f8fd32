"""N2: the way in which formulas are evaluated keeps the predicates from learning.

Mechanistic: the same weights are evaluated by the run under test, vectorised, in a Python loop, and with values that
are read as Python numbers. Runs on the rule family show what a read costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import nan

from etrm.config import Config
from etrm.investigation.controls import HEALTHY, Control
from etrm.investigation.evidence.figures import Figure, Series, logged_curve, smooth
from etrm.investigation.evidence.reasons import InspectionFacts, VerdictReason
from etrm.investigation.evidence.table import Direction, EvidenceRow, Metric
from etrm.investigation.evidence.words import format_seeds
from etrm.investigation.hypotheses.hypothesis import Statement
from etrm.investigation.hypotheses.symbolic_hypothesis import (
    SYMBOLIC_PRESET,
    InspectedMechanism,
    compare_scores,
    control_config,
    split_by_setting,
    study_config,
)
from etrm.investigation.measurements.solver_step import (
    QUERIES,
    build_step,
    compare_gradients,
    count_reached,
    with_other_faults,
)
from etrm.investigation.records import NotMeasured
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.jobs import Job
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.investigation.session import with_seed

STATEMENT = Statement(
    id="N2",
    title="Evaluation of predicates",
    statement="The evaluation of formulas keeps the predicates from learning.",
    refuted_by=(
        "With the same weights, the gradients of the predicates in the run equal those of the vectorised evaluator "
        "within 1e-4 of the largest gradient."
    ),
    mechanism=(
        "The graph ends where a truth is read as a Python number: .item(), float(), int(). A Python loop over tensors "
        "is slow but keeps the gradient. So two references are compared with the run: a loop that keeps tensors, and "
        "an evaluation that reads Python numbers."
    ),
    kind="mixed",
    would_change="A different gap between the gradients of the predicates and those of the vectorised evaluator.",
    scope="mechanism",
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
        reached: tensors that have a gradient in the run under test, one that is not zero.
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
        return not self.undecided and self.run > EQUAL

    @property
    def undecided(self) -> bool:
        """Whether the run's gradients cannot be compared with those of the reference."""
        return not self.tensors or not self.answers <= EQUAL  # NaN is not comparable either

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
        if self.undecided:
            words = f"the run gives other answers than the vectorised evaluator (by {self.answers:.2g}); {reached}"
            return VerdictReason(EvaluationReason.OTHER_ANSWERS, words)
        if self.run <= EQUAL:
            words = f"the gradients are those of the vectorised evaluator (within {self.run:.1g}); {reached}"
            return VerdictReason(EvaluationReason.EQUAL, words)
        code = EvaluationReason.CHANGED if self.reached else EvaluationReason.CUT
        words = (
            f"{reached}, although the answers are those of the vectorised evaluator, in which all have one"
        )
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


UNREGISTERED = EvaluationFacts(0, 0, answers=nan, run=nan, loop=nan, read=nan, read_reached=0)
"""Of a model none of whose modules has the predicates."""


# -- what a read costs ----------------------------------------------------------------------------

COMPARED = {
    "vectorised": f"preset {SYMBOLIC_PRESET}, vectorised evaluator, {STEPS} steps",
    "scalar-read": f"the same with every truth read as a Python number (fault {READ})",
}
"""The arms of the runs on the rule family, by the name of their setting."""
COST = Metric("n2.unseen-rules-with-a-read", "unseen rules solved if truths are read as Python numbers")
FIGURE = Figure(
    key="n2-loss",
    title="Training loss, vectorised and with values read as Python numbers",
    x_label="optimiser step",
    y_label="cross entropy (nats per token)",
    caption="Two runs of the control preset that differ in nothing but a read of the predicates' values.",
)

# -- evidence -------------------------------------------------------------------------------------

ANSWERS = Metric(
    "n2.difference-of-answers",
    "difference of the log probabilities from the vectorised evaluator",
    Direction.EQUAL,
)
GRADIENT = Metric(
    "n2.difference-of-gradients",
    "difference of the predicates' gradients from the vectorised evaluator: {item}",
    Direction.EQUAL,
)
REACHED = Metric(
    "n2.tensors-with-gradient", "tensors of the predicates with a gradient: {item}", Direction.HOLDS
)
LOOKED_AT = {"run": "the run under test", "loop": "a Python loop", "read": "values read as Python numbers"}


class PredicateEvaluation(InspectedMechanism[EvaluationFacts]):
    """N2."""

    statement = STATEMENT
    precedence = 92
    controls = (READ,)
    compared = COMPARED
    figures = (FIGURE,)
    next_step = (
        "Keep truths as tensors: look for .item(), float(), int(), .tolist() or .detach() between the predicates and "
        "the loss. A Python loop may stay if its results are stacked."
    )

    def explain_not_applicable(self, config: Config) -> str:
        """Only learned predicates can lose their gradients."""
        learns = "learned" in config.model.symbolic.families
        return "" if learns else "The library has no learned predicates."

    def inspect(self, config: Config) -> EvaluationFacts:
        """Evaluate the weights of a config as its run does, vectorised, in a loop, and with a read.

        Raises:
            EtrmError: a model cannot be built.
        """
        reference = build_step(with_other_faults(config))
        run = build_step(config, reference.samples)
        tensors = len(run.predicates)
        if not tensors:
            return UNREGISTERED
        weights = run.model.state_dict()
        reference, loop, read = (
            build_step(with_other_faults(config, *faults), reference.samples, weights)
            for faults in ((), (LOOP,), (READ,))
        )
        wanted = reference.compute_gradients(reference.predicates)
        found, looped, cut = (step.compute_gradients(step.predicates) for step in (run, loop, read))
        return EvaluationFacts(
            tensors=tensors,
            reached=count_reached(found),
            answers=float((run.answer - reference.answer).abs().max()),
            run=compare_gradients(wanted, found),
            loop=compare_gradients(wanted, looped),
            read=compare_gradients(wanted, cut),
            read_reached=count_reached(cut),
        )

    def list_controls(self) -> list[Control]:
        """The control preset healthy, with a loop that keeps the graph, and with a read that ends it."""
        return [
            Control(HEALTHY, f"preset {SYMBOLIC_PRESET} without a fault", control_config(), False),
            Control(
                LOOP, f"{LOOP}, which is healthy, on preset {SYMBOLIC_PRESET}", control_config((LOOP,)), False
            ),
            Control(READ, f"fault {READ} on preset {SYMBOLIC_PRESET}", control_config((READ,)), True),
        ]

    def make_rows(self, worst: EvaluationFacts, seeds: int) -> list[EvidenceRow]:
        """The answers and gradients of the run and of both references."""
        n = f"{QUERIES} queries of {format_seeds(seeds)}, worst"
        if not worst.tensors:
            absent = NotMeasured(absent="no module of the model has the predicates")
            return [
                GRADIENT.row(absent, item="run", item_words=LOOKED_AT["run"], threshold=f"<= {EQUAL:g}", n=n)
            ]
        apart = {"run": worst.run, "loop": worst.loop, "read": worst.read}
        reached = {"run": worst.reached, "read": worst.read_reached}
        return [
            ANSWERS.expect_at_most(worst.answers, EQUAL, n),
            *(
                GRADIENT.row(
                    value,
                    item=item,
                    item_words=LOOKED_AT[item],
                    control=0.0,
                    threshold=f"<= {EQUAL:g}" if item != "read" else "context: a read is the known cause",
                    passed=None if item == "read" else value <= EQUAL,
                    n=n,
                    note="relative to the largest gradient; the same weights and queries",
                )
                for item, value in apart.items()
            ),
            *(
                REACHED.row(
                    count,
                    item=item,
                    item_words=LOOKED_AT[item],
                    control=float(worst.tensors),
                    threshold=f"all {worst.tensors}"
                    if item != "read"
                    else "context: a read is the known cause",
                    passed=None if item == "read" else count == worst.tensors,
                    n=n,
                )
                for item, count in reached.items()
            ),
        ]

    def plan_jobs(self) -> list[Job]:
        """The runs on the rule family, vectorised and with a read."""
        faults: dict[str, tuple[str, ...]] = {"vectorised": (), "scalar-read": (READ,)}
        return [
            Job(
                ArmId("n2", setting, role="treatment" if faults[setting] else "control"),
                seed,
                with_seed(study_config(STEPS, SIDE, faults[setting], guards=8, width=32), seed),
                measure=True,
                shared=True,
            )
            for setting in COMPARED
            for seed in SEEDS
        ]

    def make_cost_rows(self, runs: Sequence[LoadedRun]) -> list[EvidenceRow]:
        """The unseen rules that are solved vectorised, against those with a read."""
        vectorised, read = split_by_setting(runs, COMPARED)
        contrast = compare_scores("scalar-read", vectorised, read, SOLVED, WORTH)
        return [
            replace(contrast, name="").row(
                COST,
                "context: what a read costs",
                None,
                f"60 tasks with rules that are not trained on, {STEPS} steps; the interval is of vectorised less read: "
                "90 %, paired t over seeds",
            )
        ]

    def make_curves(self, runs: Sequence[LoadedRun]) -> list[Series]:
        """The training loss of each run."""
        return [smooth(logged_curve(FIGURE.key, run, "lm_loss", run.arm.setting), 5) for run in runs]


HYPOTHESIS = PredicateEvaluation()

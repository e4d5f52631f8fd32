"""H6: the evaluator misreports.

Mechanistic: predictions whose score is known go through the evaluator, and the weights that it evaluates are compared
with those that it reports.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch

from etrm.config import Config, with_settings
from etrm.data import Sample, collate
from etrm.device import to_device
from etrm.errors import NonFiniteError
from etrm.evaluation import Answer
from etrm.investigation.controls import Control, inspected_arms
from etrm.investigation.evidence.reasons import InspectionFacts, VerdictReason
from etrm.investigation.evidence.table import Direction, EvidenceRow, Instrument, Metric
from etrm.investigation.hypotheses.hypothesis import Hypothesis, Statement
from etrm.investigation.hypotheses.inspection import inspect_controls, judge, judge_by, judge_controls
from etrm.investigation.hypotheses.symbolic_hypothesis import SYMBOLIC_PRESET, control_config
from etrm.investigation.measurements.formula_reference import TOLERANCE, TruthComparison, compare_truths
from etrm.investigation.measurements.known_answers import (
    VOTES,
    KnownAnswerScore,
    evaluate_known_answers,
    right_answer,
)
from etrm.investigation.measurements.repeated_answers import count_changed
from etrm.investigation.measurements.row_provenance import RowProblem, RowProvenance, read_rows
from etrm.investigation.records import Arm, InstrumentCheck, NotMeasured, Value
from etrm.investigation.result import HypothesisResult
from etrm.investigation.runs.measured_run import training_queries
from etrm.investigation.session import Investigation
from etrm.model.symbolic_variant import SymbolicVariant
from etrm.training.scoring.predictor import solve_samples
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.trainer import Trainer

STATEMENT = Statement(
    id="H6",
    title="Evaluator",
    statement="The evaluator reports wrong scores.",
    refuted_by=(
        "Known-answer predictions that are right for all tasks, for half of them or for none score 100 %, 50 % and "
        "0 %, on 4, on 64 and on all tasks, in any order of the evaluations; an answer in second place counts for "
        "pass@2 and not for pass@1; votes for augmented queries count for the query; right cells in a larger grid "
        "do not count; evaluated queries and demonstrations belong to their tasks; the averaged weights are evaluated; "
        "every row takes its full number of ACT steps; a second call gives the same answers; the formulas of a "
        "symbolic solver have the same truths if one cell at a time is evaluated."
    ),
    mechanism=(
        "The reported score does not measure what the model learned if the denominator is wrong, augmentations of "
        "votes are not undone, votes of an earlier evaluation are kept, other weights than intended are used, true "
        "sizes are given, noise is added, or formulas are evaluated wrongly."
    ),
    kind="mechanistic",
    would_change="One known-answer prediction with another score, or one evaluated tensor that is not averaged.",
)
ROWS = 64
"""Rows of a batch in which the evaluated rows are read."""
REPEATED = 32
"""Largest number of queries that are answered twice."""
STEPS = 3
"""Training steps after which averaged and raw weights differ."""


class EvaluatorReason(StrEnum):
    """What is wrong with the evaluator, or that nothing is."""

    MISREPORTED = "h6.known-answers-misreported"
    WRONG_ROWS = "h6.rows-of-another-task"
    OTHER_WEIGHTS = "h6.other-weights-evaluated"
    OTHER_STEPS = "h6.other-number-of-act-steps"
    OTHER_ANSWERS = "h6.other-answers-at-a-second-call"
    OTHER_TRUTHS = "h6.other-truths-than-the-reference"
    SOUND = "h6.sound"


@dataclass(frozen=True)
class EvaluatorFacts(InspectionFacts):
    """What the evaluator of one config does.

    Attributes:
        planted: evaluations of known answers, in the order in which they were made.
        read: rows that the evaluator evaluates, compared with their tasks.
        averaged: number of tensors of the evaluated model that equal the average.
        tensors: number of tensors that training changed, in which averaged and raw weights differ.
        act_steps: smallest number of ACT steps that a row of an evaluation took.
        wanted_steps: number of ACT steps that it should take.
        path_gap: largest difference of a logit between training and evaluation on the same samples.
        changed: number of queries whose answer a second call changes.
        repeated: number of queries that were answered twice.
        truths: truths of the formulas of a symbolic solver, compared with the reference; None of other models.
    """

    planted: tuple[KnownAnswerScore, ...]
    read: RowProvenance
    averaged: Value
    tensors: Value
    act_steps: int
    wanted_steps: int
    path_gap: Value
    changed: int
    repeated: int
    truths: TruthComparison | None

    @property
    def raw(self) -> bool:
        """Whether other weights than the averaged ones are evaluated."""
        known = not isinstance(self.averaged, NotMeasured) and not isinstance(self.tensors, NotMeasured)
        return known and self.averaged != self.tensors

    @property
    def holds(self) -> bool:
        """Whether the hypothesis holds."""
        answers = self.changed or self.act_steps != self.wanted_steps or self.raw
        truths = self.truths is not None and self.truths.differs
        scores = any(not planted.right for planted in self.planted)
        return bool(answers or truths or scores or self.read.wrong)

    @property
    def reasons(self) -> list[VerdictReason]:
        """What is wrong with the evaluator, or that nothing is."""
        wrong = [planted for planted in self.planted if not planted.right]
        found = [VerdictReason(EvaluatorReason.MISREPORTED, planted.words) for planted in wrong[:2]]
        if len(wrong) > 2:
            words = f"{len(wrong)} of {len(self.planted)} known-answer evaluations are reported wrongly"
            found.append(VerdictReason(EvaluatorReason.MISREPORTED, words))
        for kind, count in self.read.wrong.items():
            words = f"{count} of {self.read.rows} evaluated rows have {kind.words} "
            words += f"(first: {self.read.first[kind]})"
            found.append(VerdictReason(EvaluatorReason.WRONG_ROWS, words))
        if self.raw:
            words = f"{self.averaged:g} of {self.tensors:g} evaluated tensors equal the average that was requested"
            found.append(VerdictReason(EvaluatorReason.OTHER_WEIGHTS, words))
        if self.act_steps != self.wanted_steps:
            words = f"rows take {self.act_steps} ACT steps and should take {self.wanted_steps}"
            found.append(VerdictReason(EvaluatorReason.OTHER_STEPS, words))
        if self.changed:
            words = f"{self.changed} of {self.repeated} queries get another answer at a second call"
            found.append(VerdictReason(EvaluatorReason.OTHER_ANSWERS, words))
        if self.truths is not None and self.truths.differs:
            words = f"the truth of {self.truths.formula} differs by {self.truths.gap:.3g} from that of the reference, "
            words += "which evaluates one cell at a time"
            found.append(VerdictReason(EvaluatorReason.OTHER_TRUTHS, words))
        words = f"all {len(self.planted)} known-answer evaluations are reported correctly, on the averaged weights"
        return found or [VerdictReason(EvaluatorReason.SOUND, words)]


def inspect_evaluator(config: Config) -> EvaluatorFacts:
    """Put known-answer predictions through the evaluator of a config, and check what it evaluates.

    Raises:
        EtrmError: the model cannot be built.
    """
    trainer = Trainer(with_settings(config, monitor={"enabled": False}))
    planted, read = evaluate_known_answers(trainer), _read_evaluated_rows(trainer)
    gap, steps = _compare_paths(trainer)
    queries = training_queries(trainer)[:REPEATED]
    changed = count_changed(trainer.model, queries)
    truths = compare_truths(trainer.model, queries) if isinstance(trainer.model, SymbolicVariant) else None
    averaged, tensors = _count_averaged(trainer)
    return EvaluatorFacts(
        planted=planted,
        read=read,
        averaged=averaged,
        tensors=tensors,
        act_steps=steps,
        wanted_steps=trainer.config.model.halt.max_steps,
        path_gap=gap,
        changed=changed,
        repeated=len(queries),
        truths=truths,
    )


def list_formula_controls() -> tuple[Control, ...]:
    """Controls of the truths of formulas, for a run under test that has formulas."""
    fault, small = "quantifier-one-cell", f"preset {SYMBOLIC_PRESET} on few tasks"
    return (
        Control("healthy-formulas", f"{small}, without a fault", control_config(), False),
        Control(fault, f"{small}, fault {fault}", control_config((fault,)), True),
    )


class MisreportingEvaluator(Hypothesis):
    """H6."""

    statement = STATEMENT
    precedence = 20
    controls = (
        "divide-by-all",
        "no-inverse",
        "stale-votes",
        "eval-raw",
        "true-size-given",
        "pairs-for-tasks",
        "noisy-evaluation",
    )
    next_step = (
        "Fix the evaluator first: page H6 names the known-answer prediction with a wrong score. Scores that it "
        "reported before mean nothing."
    )

    def arms(self, investigation: Investigation) -> tuple[Arm, ...]:
        """The config under test and the controls, which are inspected."""
        return inspected_arms(self.study, investigation.subject, self.controls)

    def decide(self, investigation: Investigation) -> HypothesisResult:
        """Inspect the evaluator of the config under test and of the controls; it does not depend on a seed."""
        began = time.perf_counter()
        found, error = investigation.inspect_seeds(
            self.id, investigation.subject, inspect_evaluator, investigation.seeds[:1]
        )
        facts = found[0] if found else None
        controls = inspect_controls(investigation, self.study, self.controls, inspect_evaluator)
        if not investigation.subject.model.recursive:
            formulas = list_formula_controls()
            controls += judge_controls(
                f"{self.study}-formulas", formulas, judge_by(inspect_evaluator), inspect_evaluator
            )
        return self.statement.decided(
            judge(facts, error, controls),
            arms=self.arms(investigation),
            evidence=_make_rows(facts) if facts else (),
            controls=controls,
            instruments=_check_instruments(facts) if facts else (),
            wall_s=round(time.perf_counter() - began, 1),
        )


def _read_evaluated_rows(trainer: Trainer) -> RowProvenance:
    """The rows that the evaluator evaluates, as the tensors that a model receives."""
    tasks, evaluated = load_held_out_tasks(trainer.config), list[Sample]()

    def answer(samples: Sequence[Sample]) -> list[Answer]:
        evaluated.extend(samples)
        return [right_answer(sample) for sample in samples]

    with suppress(ValueError):  # an evaluator that refuses right answers has received the rows already
        trainer.recipe.evaluate(tasks, answer, augmentations=VOTES, data=trainer.config.data)
    parts = [evaluated[place : place + ROWS] for place in range(0, len(evaluated), ROWS)]
    return read_rows([(collate(part), part) for part in parts], tasks, trainer.config.data.max_demos)


@torch.no_grad()
def _compare_paths(trainer: Trainer) -> tuple[Value, int]:
    """The largest difference of a logit between training and evaluation, and the ACT steps of the latter."""
    model = trainer.model
    batch, output = solve_samples(model, training_queries(trainer)[:8])
    assert output.steps is not None
    steps = int(output.steps.min())
    if model.draw_noise(1, 1) is not None:
        return NotMeasured(absent="the encoder samples its context in training"), steps
    logits = []
    for mode in (True, False):
        model.train(mode)
        carry = model.initial_carry(batch.size)
        logits.append(model(carry, batch)[1].logits)
    model.train()
    gap = (logits[0] - logits[1]).abs()
    if batch.valid is not None:
        gap = gap[batch.valid]
    largest = float(gap.max())
    return (largest if np.isfinite(largest) else NotMeasured(absent="logits are not finite")), steps


def _count_averaged(trainer: Trainer) -> tuple[Value, Value]:
    """The number of tensors that an evaluation takes from the average, and of those that training changed."""
    try:
        for _ in range(STEPS):
            trainer.train_step()
    except NonFiniteError as error:
        return NotMeasured(absent=error.what), NotMeasured(absent=error.what)
    checkpoint = trainer.state.capture()
    model = to_device(trainer.recipe.build_model(trainer.config, trainer.episodes), trainer.device)
    trainer.recipe.load_weights(model, checkpoint, "ema")
    loaded = model.state_dict()
    moved = [
        name for name, tensor in checkpoint.model.items() if not torch.equal(tensor, checkpoint.ema[name])
    ]
    return float(sum(torch.equal(loaded[name], checkpoint.ema[name]) for name in moved)), float(len(moved))


KNOWN_ANSWERS = Metric("h6.score-of-known-answers", "score of known answers: {item}", Direction.EQUAL)
WRONG_ROWS = Metric(
    "h6.kinds-of-wrong-rows", "kinds of evaluated rows that do not belong to their task", Direction.EQUAL
)
AVERAGED = Metric(
    "h6.averaged-tensors", "evaluated tensors that equal the requested average", Direction.EQUAL
)
ACT_STEPS = Metric("h6.act-steps", "fewest ACT steps of an evaluated row", Direction.EQUAL)
CHANGED = Metric("h6.changed-answers", "queries whose answer a second call changes", Direction.EQUAL)
TRUTH_GAP = Metric(
    "h6.truth-gap", "largest difference of a truth, model against one cell at a time", Direction.EQUAL
)
PATH_GAP = Metric("h6.path-gap", "largest difference of a logit, training path against evaluation path")


def _make_rows(facts: EvaluatorFacts) -> tuple[EvidenceRow, ...]:
    rows = f"{facts.read.rows} rows, {facts.read.demos} demonstrations"
    problems = "; ".join(f"{kind.words}: {count} rows" for kind, count in facts.read.wrong.items())
    wrong = f"0 of {len(RowProblem)}"
    averaged = AVERAGED.row(
        facts.averaged,
        control=facts.tensors,
        threshold="all that differ between averaged and raw weights",
        passed=None if isinstance(facts.averaged, NotMeasured) else not facts.raw,
        n=f"after {STEPS} steps",
    )
    return (
        *map(_make_known_answer_row, facts.planted),
        WRONG_ROWS.expect_none(len(facts.read.wrong), rows, threshold=wrong, note=problems),
        averaged,
        ACT_STEPS.expect_all(facts.act_steps, facts.wanted_steps, "8 queries", threshold="the maximum"),
        PATH_GAP.row(facts.path_gap, threshold="rounding", n="8 training queries, first ACT step"),
        CHANGED.expect_none(facts.changed, f"{facts.repeated} queries"),
        *([_make_truth_row(facts.truths)] if facts.truths else []),
    )


def _make_truth_row(truths: TruthComparison) -> EvidenceRow:
    return TRUTH_GAP.row(
        truths.gap,
        threshold=f"at most {TOLERANCE:g}",
        passed=not truths.differs,
        n=f"{truths.conditions} conditions, {truths.cells} cells",
        note=truths.formula,
    )


def _make_known_answer_row(planted: KnownAnswerScore) -> EvidenceRow:
    return KNOWN_ANSWERS.row(
        planted.score,
        item=f"{planted.answers}.{planted.tasks}-tasks.pass-at-{planted.k}",
        item_words=f"{planted.what}, pass@{planted.k}",
        control=planted.wanted,
        threshold=f"{planted.solved} of {planted.asked} tasks",
        passed=planted.right,
        n=f"{VOTES} votes for each query",
        note=f"{planted.reported_solved} of {planted.reported_asked} reported",
    )


CAN_BE_GIVEN = Instrument("h6.known-answers-can-be-given", "the evaluator is able to give the right answers")
WEIGHTS_DIFFER = Instrument("h6.averaged-weights-differ", "averaged and raw weights differ")


def _check_instruments(facts: EvaluatorFacts) -> tuple[InstrumentCheck, ...]:
    """Whether the known answers and the weights can show a fault."""
    solvable = max((planted.solved for planted in facts.planted), default=0)
    tensors = facts.tensors
    return (
        CAN_BE_GIVEN.check(
            solvable > 0, f"{solvable} tasks whose outputs lie in the region of their queries"
        ),
        WEIGHTS_DIFFER.check(False, tensors.absent)
        if isinstance(tensors, NotMeasured)
        else WEIGHTS_DIFFER.check(tensors > 0, f"{tensors:.0f} tensors"),
    )


HYPOTHESIS = MisreportingEvaluator()

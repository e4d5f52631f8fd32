"""H6: the evaluator misreports.

Mechanistic: predictions whose score is known beforehand go through the evaluator of the subject, and
the weights that it asks are compared with those that it says it asks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch

from etrm.config import Config, with_overrides
from etrm.data import Sample, collate
from etrm.device import to_device
from etrm.errors import EtrmError, NonFiniteError
from etrm.evaluation import Answer
from etrm.investigation.evidence import Found, Instrument, Metric, Reason
from etrm.investigation.hypotheses.structural_verdict import inspected_controls, judged
from etrm.investigation.measurements.known_answers import VOTES, Planted, evaluate_known_answers, right_answer
from etrm.investigation.measurements.row_provenance import Provenance, RowProblem, read_rows
from etrm.investigation.protocol import (
    Investigation,
    Statement,
    control_arms,
    seeded,
)
from etrm.investigation.result import (
    Absent,
    Direction,
    Evidence,
    Hypothesis,
    InstrumentCheck,
    Value,
)
from etrm.investigation.runs.measured_run import training_queries
from etrm.training.scoring.predictor import solve_samples
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.trainer import Trainer

STATEMENT = Statement(
    id="H6",
    title="Evaluator",
    statement="The evaluator misreports.",
    refuted_by=(
        "Right answers planted for all tasks, for half of them and for none score 100 %, that half and 0 %, on 4, "
        "on 64 and on all tasks, in whatever order the evaluations come; an answer that comes second counts for "
        "pass@2 and not for pass@1; votes for augmented queries count for the query; what is asked are the tasks' "
        "own queries with their own demonstrations; the averaged weights are those that are evaluated; every row "
        "takes the ACT steps it is given."
    ),
    mechanism=(
        "A wrong denominator, votes that are not turned back or not forgotten, or other weights than meant report a "
        "score that has nothing to do with what was learned."
    ),
    kind="mechanistic",
    would_change="One planted prediction that is not scored as planted, or one evaluated tensor that is not averaged.",
)
POSITIVE = ("divide-by-all", "no-inverse", "stale-votes", "eval-raw")
ROWS = 64
"""Of a batch in which what is asked is read."""
STEPS = 3
"""Training steps after which averaged and raw weights differ."""


class EvaluatorReason(StrEnum):
    """What is wrong with the evaluator, or that nothing is."""

    MISREPORTED = "h6.known-answers-misreported"
    WRONG_ROWS = "h6.rows-of-another-task"
    OTHER_WEIGHTS = "h6.other-weights-evaluated"
    OTHER_STEPS = "h6.other-number-of-act-steps"
    SOUND = "h6.sound"


@dataclass(frozen=True)
class Facts(Found):
    """What the evaluator of one subject does.

    Attributes:
        planted: evaluations, in the order in which they were made.
        read: rows that the evaluator asks, held against their tasks.
        averaged: tensors that a model asked for averaged weights has equal to the average.
        tensors: of them that training changed, so that the two can be told apart.
        act_steps: that rows of an evaluation took, the fewest.
        wanted_steps: that they should take.
        path_gap: largest difference of a logit between training and evaluation on the same samples.
    """

    planted: tuple[Planted, ...]
    read: Provenance
    averaged: Value
    tensors: Value
    act_steps: int
    wanted_steps: int
    path_gap: Value

    @property
    def raw(self) -> bool:
        """Whether other weights than the averaged ones are evaluated."""
        known = not isinstance(self.averaged, Absent) and not isinstance(self.tensors, Absent)
        return known and self.averaged != self.tensors

    @property
    def holds(self) -> bool:
        """Whether the hypothesis holds."""
        steps = self.act_steps != self.wanted_steps
        return (
            steps or self.raw or bool(self.read.wrong) or any(not planted.right for planted in self.planted)
        )

    @property
    def reasons(self) -> list[Reason]:
        """What is wrong with the evaluator, or that nothing is."""
        wrong = [planted for planted in self.planted if not planted.right]
        found = [Reason(EvaluatorReason.MISREPORTED, planted.words) for planted in wrong[:2]]
        if len(wrong) > 2:
            words = f"{len(wrong)} of {len(self.planted)} planted evaluations are reported wrongly"
            found.append(Reason(EvaluatorReason.MISREPORTED, words))
        for kind, count in self.read.wrong.items():
            words = f"{count} of {self.read.rows} rows that are asked have {kind.words} "
            words += f"(first: {self.read.first[kind]})"
            found.append(Reason(EvaluatorReason.WRONG_ROWS, words))
        if self.raw:
            words = (
                f"{self.averaged:g} of {self.tensors:g} evaluated tensors are the average that was asked for"
            )
            found.append(Reason(EvaluatorReason.OTHER_WEIGHTS, words))
        if self.act_steps != self.wanted_steps:
            words = f"rows take {self.act_steps} ACT steps and should take {self.wanted_steps}"
            found.append(Reason(EvaluatorReason.OTHER_STEPS, words))
        words = (
            f"all {len(self.planted)} planted evaluations are reported as planted, on the averaged weights"
        )
        return found or [Reason(EvaluatorReason.SOUND, words)]


def inspect(config: Config) -> Facts:
    """Plant predictions in a subject's evaluator, and look at what it evaluates.

    Raises:
        EtrmError: the subject cannot be built.
    """
    trainer = Trainer(with_overrides(config, ("monitor.enabled=false",)))
    planted, read = evaluate_known_answers(trainer), _read(trainer)
    gap, steps = _paths(trainer)
    averaged, tensors = _weights(trainer)
    return Facts(planted, read, averaged, tensors, steps, trainer.config.model.halt.max_steps, gap)


def decide(investigation: Investigation) -> Hypothesis:
    """Look at the evaluator of the subject and of the controls; it does not depend on a seed."""
    began = time.perf_counter()
    facts: Facts | None = None
    error = ""
    investigation.progress("H6", 0, 1)
    try:
        facts = inspect(seeded(investigation.subject, investigation.seeds[0]))
    except EtrmError as found:
        error = found.what
    controls = inspected_controls(investigation, "h6", POSITIVE, inspect)
    return STATEMENT.decided(
        judged(facts, error, controls),
        arms=control_arms("h6", investigation.subject, POSITIVE),
        evidence=_evidence(facts) if facts else (),
        controls=controls,
        instruments=_instruments(facts) if facts else (),
        wall_s=round(time.perf_counter() - began, 1),
    )


def _read(trainer: Trainer) -> Provenance:
    """What the evaluator asks, whatever the answers, as the tensors that a model is given."""
    tasks, asked = load_held_out_tasks(trainer.config), list[Sample]()

    def answer(samples: Sequence[Sample]) -> list[Answer]:
        asked.extend(samples)
        return [right_answer(sample) for sample in samples]

    with suppress(ValueError):  # an evaluator that refuses right answers has asked already
        trainer.recipe.evaluate(tasks, answer, augmentations=VOTES, data=trainer.config.data)
    parts = [asked[place : place + ROWS] for place in range(0, len(asked), ROWS)]
    return read_rows([(collate(part), part) for part in parts], tasks, trainer.config.data.max_demos)


# -- what is evaluated ----------------------------------------------------------------------------


@torch.no_grad()
def _paths(trainer: Trainer) -> tuple[Value, int]:
    """Logits of the training path against those of the evaluation path, and ACT steps of the latter."""
    model = trainer.model
    batch, output = solve_samples(model, training_queries(trainer)[:8])
    assert output.steps is not None
    steps = int(output.steps.min())
    if model.encoder is not None and model.encoder.noise_shape(1) is not None:
        return Absent(absent="the encoder draws its context at random in training"), steps
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
    return (largest if np.isfinite(largest) else Absent(absent="logits are not finite")), steps


def _weights(trainer: Trainer) -> tuple[Value, Value]:
    """Tensors that an evaluation of averaged weights takes from the average, of those that training moved."""
    try:
        for _ in range(STEPS):
            trainer.train_step()
    except NonFiniteError as error:
        return Absent(absent=error.what), Absent(absent=error.what)
    checkpoint = trainer.state.capture()
    model = to_device(trainer.recipe.build_model(trainer.config, trainer.episodes), trainer.device)
    trainer.recipe.load_weights(model, checkpoint, "ema")
    loaded = model.state_dict()
    moved = [
        name for name, tensor in checkpoint.model.items() if not torch.equal(tensor, checkpoint.ema[name])
    ]
    return float(sum(torch.equal(loaded[name], checkpoint.ema[name]) for name in moved)), float(len(moved))


# -- in words -------------------------------------------------------------------------------------


KNOWN_ANSWERS = Metric("h6.score-of-known-answers", "score of known answers: {item}", Direction.EQUAL)
WRONG_ROWS = Metric(
    "h6.kinds-of-wrong-rows", "kinds of rows that are asked and are not their task's own", Direction.EQUAL
)
AVERAGED = Metric(
    "h6.averaged-tensors", "evaluated tensors that are the average that was asked for", Direction.EQUAL
)
ACT_STEPS = Metric("h6.act-steps", "ACT steps of an evaluated row, the fewest", Direction.EQUAL)
PATH_GAP = Metric("h6.path-gap", "largest difference of a logit, training path against evaluation path")


def _evidence(facts: Facts) -> tuple[Evidence, ...]:
    problems = "; ".join(f"{kind.words}: {count} rows" for kind, count in facts.read.wrong.items())
    return (
        *map(_known_answers, facts.planted),
        WRONG_ROWS.row(
            len(facts.read.wrong),
            control=0.0,
            threshold=f"0 of {len(RowProblem)}",
            passed=not facts.read.wrong,
            n=f"{facts.read.rows} rows, {facts.read.demos} demonstrations",
            note=problems,
        ),
        AVERAGED.row(
            facts.averaged,
            control=facts.tensors,
            threshold="all that differ between averaged and raw weights",
            passed=None if isinstance(facts.averaged, Absent) else not facts.raw,
            n=f"after {STEPS} steps",
        ),
        ACT_STEPS.row(
            facts.act_steps,
            control=facts.wanted_steps,
            threshold="the maximum",
            passed=facts.act_steps == facts.wanted_steps,
            n="8 queries",
        ),
        PATH_GAP.row(facts.path_gap, threshold="rounding", n="8 training queries, first ACT step"),
    )


def _known_answers(planted: Planted) -> Evidence:
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


CAN_BE_GIVEN = Instrument("h6.known-answers-can-be-given", "planted right answers can be answered")
WEIGHTS_DIFFER = Instrument("h6.averaged-weights-differ", "averaged and raw weights differ")


def _instruments(facts: Facts) -> tuple[InstrumentCheck, ...]:
    """Whether the planted answers could tell anything."""
    solvable = max((planted.solved for planted in facts.planted), default=0)
    tensors = facts.tensors
    return (
        CAN_BE_GIVEN.check(
            solvable > 0, f"{solvable} tasks whose outputs lie in the region of their queries"
        ),
        WEIGHTS_DIFFER.check(False, tensors.absent)
        if isinstance(tensors, Absent)
        else WEIGHTS_DIFFER.check(tensors > 0, f"{tensors:.0f} tensors"),
    )

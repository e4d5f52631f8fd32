"""Evaluations by the evaluator of a run, recorded for the reference.

A model that is always wrong exercises little of an evaluator, so known answers are evaluated too: right, too large,
right with colours on the padding, in disagreement, right only under augmentation, or missing. All are made from the
rows of the reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from etrm.checkpoints.format import Checkpoint
from etrm.config import Config, with_settings
from etrm.data import Sample, TaskSet
from etrm.device import to_host
from etrm.errors import EtrmError
from etrm.evaluation import Answer, EvaluationReport, Predictor, evaluate_baselines, write_submission
from etrm.investigation.reference_comparison.plain_values import plain_report, plain_row
from etrm.model.variant import Variant
from etrm.reference.data.canvas import COLOUR, PAD, UNCHANGED, UNSCORED, Integers
from etrm.reference.data.loader import ReferenceRow
from etrm.reference.departure import Departure, NotCovered
from etrm.reference.evaluation.evaluated_weights import compare_weights
from etrm.reference.evaluation.evaluation_stages import (
    EvaluationRequest,
    RecordedAnswer,
    RecordedEvaluation,
    Submission,
    list_evaluated,
)
from etrm.reference.evaluation.trivial_answers import compare_baselines
from etrm.training.scoring.predictor import evaluate_tasks, make_predictor
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.trainer import Trainer

TASKS = 12
"""Tasks of a recorded evaluation with known answers, so that it takes a fraction of a second."""
OWN_TASKS = 4
"""Tasks of a recorded evaluation of a model, whose answers take longer."""
SEVERAL = 2
"""Tasks with several test pairs, if there are so many: only these show a wrong share of a task."""
VOTES = 4
"""Votes for each query with known answers: fewer would hide a wrong count."""
LAST = COLOUR + 9  # the token of colour 9


class AnswerPattern(StrEnum):
    """The answers that are given."""

    RIGHT = "right"
    LARGER = "larger"
    PADDED = "padded"
    DISAGREEING = "disagreeing"
    AUGMENTED = "augmented"
    MISSING = "missing"


def record_known_answers(trainer: Trainer) -> list[RecordedEvaluation]:
    """Evaluate some held-out tasks once with each pattern of known answers, in an order that shows votes that are kept.

    Raises:
        DataError: the held-out tasks cannot be read.
    """
    request = request_evaluation(trainer.config, choose_held_out(trainer.config))
    rows = {_name_row(row): row for row in list_evaluated(request)}

    def evaluate(predictor: Predictor) -> EvaluationReport:
        return trainer.recipe.evaluate(
            request.tasks,
            predictor,
            augmentations=request.augmentations,
            data=request.data,
            seed=request.seed,
            variant=trainer.config.model.variant,
            trained=request.trained,
            ks=request.ks,
            batch_size=trainer.config.evaluate.batch_size,
        )

    return [
        record_evaluation(request, predict_pattern(pattern, rows), f"known answers ({pattern})", evaluate)
        for pattern in AnswerPattern
    ]


def record_own_answers(trainer: Trainer, model: Variant | None = None) -> RecordedEvaluation | NotCovered:
    """Evaluate some held-out tasks with the answers of a model, as the config requests it, but in two batches or more.

    So few tasks would be a single batch, which shows nothing that is kept from one to the next.

    Args:
        trainer: the run, whose evaluator is recorded.
        model: the model; that of the trainer by default.

    Raises:
        DataError: the held-out tasks cannot be read.
    """
    request = _request_own(trainer)
    if isinstance(request, NotCovered):
        return request
    rows = request.augmentations * sum(len(task.tests) for task in request.tasks)
    config = with_settings(
        trainer.config,
        evaluate={
            "precision": "float32",  # that of the reference
            "batch_size": min(trainer.config.evaluate.batch_size, -(-rows // 2)),
        },
    )
    predictor = make_predictor(model or trainer.model, config.evaluate)

    def evaluate(predictor: Predictor) -> EvaluationReport:
        """Evaluate as a run does, not by the request, so that a wrong argument departs from the reference too."""
        return evaluate_tasks(trainer.recipe, predictor, request.tasks, config, trainer.tasks)

    return record_evaluation(request, predictor, "answers of the model", evaluate)


def compare_trivial(config: Config) -> list[Departure]:
    """Compare the scores of the trivial baselines on some held-out tasks, with one vote for each query.

    Raises:
        DataError: the held-out tasks cannot be read.
    """
    tasks, ks = choose_held_out(config), (1, 2)
    request = replace(request_evaluation(config, tasks, augmentations=1), ks=ks)
    reports = evaluate_baselines(tasks, config.data, ks)
    return compare_baselines(request, {name: plain_report(report) for name, report in reports.items()})


def choose_held_out(config: Config, count: int = TASKS) -> TaskSet:
    """Return some held-out tasks: the first with several test pairs, then the first of the others, in order of ids."""
    whole = load_held_out_tasks(config)
    several = [task for task in whole if len(task.tests) > 1][:SEVERAL]
    others = [task for task in whole if task not in several]
    return replace(whole, tasks=(*several, *others[: count - len(several)]))


def request_evaluation(config: Config, tasks: TaskSet, augmentations: int = VOTES) -> EvaluationRequest:
    """Return the request of an evaluation without a puzzle table."""
    return EvaluationRequest(tasks, config.data, augmentations, config.train.seed)


def _request_own(trainer: Trainer) -> EvaluationRequest | NotCovered:
    """Return the request of an evaluation of the run's model; of puzzle ids, only tasks that were trained on."""
    config = trainer.config
    request = request_evaluation(config, choose_held_out(config, OWN_TASKS), config.evaluate.augmentations)
    if config.model.has_encoder:
        return request
    trained = {task.id for task in trainer.tasks}
    known = [task for task in request.tasks if task.id in trained]
    numbered = config.data.augmentations
    if not known or numbered == "fresh" or numbered < config.evaluate.augmentations:
        return NotCovered(
            "reference.no-puzzle-ids",
            "the answers of the model, because its puzzle table has no row for the held-out tasks",
        )
    return replace(request, tasks=replace(request.tasks, tasks=tuple(known)), trained=trainer.tasks)


def record_evaluation(
    request: EvaluationRequest,
    predictor: Predictor,
    label: str,
    evaluate: Callable[[Predictor], EvaluationReport],
) -> RecordedEvaluation:
    """Evaluate once, and record every row that the evaluator has answered.

    Args:
        request: the request, by which the reference evaluates.
        predictor: the answers.
        label: the name of the evaluation.
        evaluate: the evaluator with its arguments.
    """
    answers = list[RecordedAnswer]()

    def answer(samples: Sequence[Sample]) -> Sequence[Answer | None]:
        given = predictor(samples)
        answers.extend(_record(sample, one) for sample, one in zip(samples, given, strict=True))
        return given

    recorded = RecordedEvaluation(label, request, answers)
    try:
        report = evaluate(answer)
    except (ValueError, EtrmError) as error:  # answers of the required form, or tasks, are refused
        return replace(recorded, refused=str(error).partition("\n")[0])
    return replace(recorded, reported=plain_report(report), submitted=_submit(request, report))


def _submit(request: EvaluationRequest, report: EvaluationReport) -> Submission:
    """Write the submission of a report to a file, and read it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "submission.json"
        write_submission(path, request.tasks, report.candidates, request.data.max_side)
        found: Submission = json.loads(path.read_text("utf-8"))
    return found


def _record(sample: Sample, answer: Answer | None) -> RecordedAnswer:
    tokens, q_halt = answer or (None, 0.0)
    copied = None if tokens is None else np.array(tokens)
    return RecordedAnswer(sample.task_id, sample.query, sample.name, plain_row(sample), copied, q_halt)


# -- known answers ------------------------------------------------------------------------------

RowName = tuple[str, int, str]
"""A task id, the index of a query, and the name of the task under an augmentation."""


def predict_pattern(pattern: AnswerPattern, rows: dict[RowName, ReferenceRow]) -> Predictor:
    """Return a predictor that gives known answers to the samples of some rows, and none to others."""

    def answer(samples: Sequence[Sample]) -> list[Answer | None]:
        named = [rows.get((sample.task_id, sample.query, sample.name)) for sample in samples]
        return [None if row is None else _PATTERNS[pattern](row) for row in named]

    return answer


def _right(row: ReferenceRow) -> Integers:
    return np.where(row.labels == UNSCORED, PAD, row.labels)


def _mirrored(row: ReferenceRow) -> Integers:
    """The right answer in other colours."""
    tokens = _right(row)
    return np.where(tokens >= COLOUR, COLOUR + LAST - tokens, tokens)


def _black(row: ReferenceRow) -> Integers:
    """The right answer with every cell black, which is the same under all turns and colours."""
    tokens = _right(row)
    return np.where(tokens >= COLOUR, COLOUR, tokens)


def _disagree(row: ReferenceRow) -> Answer:
    """One vote is right, one is its mirror image in colours, and the others are black.

    The logits of the first two decide between them for every second task; for the other ones they are equal, and the
    digest of the grid decides.
    """
    votes = (_right, _mirrored, _black, _black)
    number = row.drawing.serial % VOTES
    return votes[number](row), 1.0 if number == row.drawing.asked.task_index % 2 else -1.0


def _augmented(row: ReferenceRow) -> Answer:
    return (_mirrored if row.drawing.change == UNCHANGED else _right)(row), 0.0


def _partly_missing(row: ReferenceRow) -> Answer | None:
    """The first of several queries, so that a task is solved in part; of tasks with one query, none of every third."""
    asked = row.drawing.asked
    third = asked.task_index % 3 == 2 and len(asked.task.tests) == 1
    return None if asked.index or third else (_right(row), 0.0)


_PATTERNS: dict[AnswerPattern, Callable[[ReferenceRow], Answer | None]] = {
    AnswerPattern.RIGHT: lambda row: (_right(row), 0.0),
    AnswerPattern.LARGER: lambda row: (np.maximum(_right(row), COLOUR), 0.0),
    AnswerPattern.PADDED: lambda row: (np.where(row.labels == UNSCORED, COLOUR, row.labels), 0.0),
    AnswerPattern.DISAGREEING: _disagree,
    AnswerPattern.AUGMENTED: _augmented,
    AnswerPattern.MISSING: _partly_missing,
}


def _name_row(row: ReferenceRow) -> RowName:
    return row.drawing.asked.task.id, row.drawing.asked.index, row.drawing.name


# -- weights --------------------------------------------------------------------------------------


def compare_loaded_weights(trainer: Trainer, checkpoint: Checkpoint | None = None) -> list[Departure]:
    """Compare what an evaluation of a checkpoint loads with the checkpoint's own accumulators and raw weights.

    Args:
        trainer: the run, whose recipe loads the weights.
        checkpoint: the checkpoint; the current state by default. The two kinds of weights differ after some steps.
    """
    held = checkpoint or trainer.state.capture()
    raw = {name: to_host(value) for name, value in held.model.items()}
    sums = {
        name.removeprefix("ema."): to_host(value)
        for name, value in held.tensors.items()
        if name.startswith("ema.")
    }
    found = []
    with torch.random.fork_rng(devices=()):  # building a model draws its initial weights
        model = trainer.recipe.build_model(trainer.config, trainer.episodes)
    for kind in ("ema", "raw"):
        trainer.recipe.load_weights(model, held, kind)
        found += compare_weights(
            {name: to_host(value) for name, value in model.state_dict().items()},
            raw,
            sums,
            updates=held.state["ema_updates"],
            decay=trainer.config.train.ema_decay,
            averaged=kind == "ema",
        )
    return found

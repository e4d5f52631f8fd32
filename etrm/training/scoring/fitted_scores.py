"""Scores of a run that fits something to each task at test time: its context, its weights, or both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from etrm.config import AdaptedPart, Config
from etrm.data import Sample, TaskSet, build_evaluation_samples
from etrm.evaluation import EvaluationReport, Prediction, check_outputs
from etrm.evaluation.passk import predict, score
from etrm.model.variant import Variant
from etrm.training.scoring.adaptation import adapt, check_adaptable
from etrm.training.scoring.context_search import ContextSearch, SearchedAnswer, mismatch
from etrm.training.scoring.predictor import make_predictor


class Fit(StrEnum):
    """What is fitted to the demonstrations of each task."""

    CONTEXT = "context"
    MISMATCHED = "mismatched-context"
    PART = "part"
    BOTH = "part-and-context"

    @property
    def words(self) -> str:
        """The fit as a report names it."""
        return {
            Fit.CONTEXT: "searched",
            Fit.MISMATCHED: "searched, mismatched",
            Fit.PART: "adapted",
            Fit.BOTH: "adapted, searched",
        }[self]


@dataclass(frozen=True)
class FittedScores:
    """The scores of one way to fit a model to each task.

    Attributes:
        report: the answers and their scores.
        seconds: wall-clock seconds per task.
        fitted: the share of fitted demonstrations that are answered exactly after a search; None without a search.
        held_out: the same share of demonstrations that searches left out; None where none is left out.
        steps: mean number of gradient steps of a search; None without a search.
        unadapted: the number of tasks with too few demonstrations to adapt to.
    """

    report: EvaluationReport
    seconds: float
    fitted: float | None = None
    held_out: float | None = None
    steps: float | None = None
    unadapted: int = 0


def score_fitted(
    model: Variant,
    config: Config,
    asked: TaskSet,
    trained: TaskSet,
    *,
    search: bool,
    part: AdaptedPart | None,
) -> dict[Fit, FittedScores]:
    """Score every way of fitting that is requested.

    Args:
        model: the model; its weights are bit for bit the same afterwards.
        config: its settings, with those of the evaluation.
        asked: the tasks to evaluate; their answers are read only to score.
        trained: the tasks that the model was trained on.
        search: whether to search contexts.
        part: the part to adapt, if any.

    Returns:
        scores by what is fitted; of searches also those fitted to the demonstrations of another task, the control.

    Raises:
        ConfigError: the model has no context or encoder that could be fitted.
        DataError: a test output is unknown.
    """
    check_outputs(asked)
    if part is not None:
        check_adaptable(model, part)
    contexts = ContextSearch(model, config, trained) if search else None
    samples = build_evaluation_samples(
        asked,
        config.data,
        config.evaluate.augmentations,
        config.train.seed,
        variant=config.model.variant,
        trained=trained if model.encoder is None else None,
    )
    found: dict[Fit, FittedScores] = {}
    if contexts is not None:
        found[Fit.CONTEXT] = _score_search(contexts.answer, asked, samples)
        if config.evaluate.search.control and len(asked) > 1:
            others = mismatch(samples)
            found[Fit.MISMATCHED] = _score_search(
                lambda chosen: contexts.answer(chosen, others), asked, samples
            )
    if part is not None:
        found[Fit.PART] = _score_adapted(model, config, asked, samples, part)
        if contexts is not None:
            found[Fit.BOTH] = _score_adapted(model, config, asked, samples, part, contexts)
    return found


def _score_search(
    answer: Callable[[Sequence[Sample]], list[SearchedAnswer]], asked: TaskSet, samples: Sequence[Sample]
) -> FittedScores:
    began = time.perf_counter()
    answers = answer(samples)
    return _summarise(asked, answers, (time.perf_counter() - began) / len(asked))


def _summarise(
    asked: TaskSet, answers: Sequence[SearchedAnswer], seconds: float, unadapted: int = 0
) -> FittedScores:
    predictions = choose_votes(answers)
    held_out = [answer.held_out for answer in answers if not math.isnan(answer.held_out)]
    return FittedScores(
        report=_score_all(asked, predictions),
        seconds=seconds,
        fitted=fmean(answer.fitted for answer in answers),
        held_out=fmean(held_out) if held_out else None,
        steps=fmean(answer.steps for answer in answers),
        unadapted=unadapted,
    )


def choose_votes(answers: Sequence[SearchedAnswer]) -> list[Prediction]:
    """Return the votes: of the searches of a sample those that answer most of its fitted demonstrations.

    A search that fails on what it was fitted to is a poor witness of the rule.
    """
    most: dict[int, float] = {}
    for answer in answers:
        key = id(answer.prediction.sample)
        most[key] = max(most.get(key, 0.0), answer.fitted)
    return [a.prediction for a in answers if a.fitted == most[id(a.prediction.sample)]]


def _score_all(asked: TaskSet, predictions: Sequence[Prediction]) -> EvaluationReport:
    return score(tuple(asked), [prediction.sample for prediction in predictions], predictions)


def _score_adapted(
    model: Variant,
    config: Config,
    asked: TaskSet,
    samples: Sequence[Sample],
    part: AdaptedPart,
    contexts: ContextSearch | None = None,
) -> FittedScores:
    """Adapt to one task after the other, and answer its samples."""
    began, unadapted = time.perf_counter(), 0
    answers: list[SearchedAnswer] = []
    predictions: list[Prediction] = []
    for task in asked:
        own = [sample for sample in samples if sample.task_id == task.id]
        with adapt(model, task, config, part) as adapted:
            unadapted += not adapted.losses
            if contexts is not None:
                answers += contexts.with_model(adapted.model).answer(own)
            else:
                predictor = make_predictor(adapted.model, config.evaluate.halting)
                predictions += [
                    p for p in predict(own, predictor, config.evaluate.batch_size) if p is not None
                ]
    seconds = (time.perf_counter() - began) / len(asked)
    if contexts is not None:
        return _summarise(asked, answers, seconds, unadapted)
    return FittedScores(_score_all(asked, predictions), seconds, unadapted=unadapted)

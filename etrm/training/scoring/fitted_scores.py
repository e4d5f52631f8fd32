"""Scores of a run that fits something to each task at test time: its context, its weights, or both."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import fmean
from typing import TypeAlias

from etrm.config import AdaptedPart, Config
from etrm.data import Sample, Task, TaskSet, build_evaluation_samples
from etrm.evaluation import Candidates, EvaluationReport, Prediction
from etrm.evaluation.passk import predict, rank_candidates, score
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


@dataclass(frozen=True)
class Fitted:
    """The scores after fitting.

    Attributes:
        scores: scores by what is fitted; of searches also those fitted to the demonstrations of another task, the
            control. Empty of a way that has not finished a task.
        interrupted: whether Ctrl-C ended the work; the scores are then those of the tasks that were finished.
    """

    scores: dict[Fit, FittedScores]
    interrupted: bool = False


@dataclass(frozen=True)
class FittedAnswers:
    """The answers after fitting.

    Attributes:
        answers: the answers by what is fitted, of each way that has finished a task.
        interrupted: whether Ctrl-C ended the work.
    """

    answers: dict[Fit, PartialAnswers]
    interrupted: bool = False

    def rank(self) -> dict[Fit, Candidates]:
        """The ranked answers, whose true outputs may be unknown."""
        return {fit: answers.rank() for fit, answers in self.answers.items()}

    def score(self) -> Fitted:
        """The scores of the answers.

        Raises:
            ArgumentError: a true output is unknown.
        """
        return Fitted({fit: answers.score() for fit, answers in self.answers.items()}, self.interrupted)


OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Takes the name of the work in progress, the number of finished tasks, and the number of all."""


def fit_to_tasks(
    model: Variant,
    config: Config,
    held_out: TaskSet,
    trained: TaskSet,
    *,
    search: bool,
    part: AdaptedPart | None,
    progress: OnProgress = lambda work, done, total: None,
) -> FittedAnswers:
    """Answer tasks in every way of fitting that is requested. Ctrl-C ends the work early and keeps the finished tasks.

    Args:
        model: the model; its weights are bit for bit the same afterwards.
        config: its settings, with those of the evaluation.
        held_out: the tasks to answer, whose outputs are not read.
        trained: the tasks that the model was trained on.
        search: whether to search contexts.
        part: the part to adapt, if any.
        progress: the function that is called when tasks are finished.

    Raises:
        ConfigError: the model has no context or encoder that could be fitted.
    """
    if part is not None:
        check_adaptable(model, part)
    contexts = ContextSearch(model, config, trained) if search else None
    samples = build_evaluation_samples(
        held_out,
        config.data,
        config.evaluate.augmentations,
        config.train.seed,
        variant=config.model.variant,
        trained=trained if model.encoder is None else None,
    )
    found: dict[Fit, PartialAnswers] = {}
    interrupted = False
    try:
        for fit in _fit_in_turn(model, config, held_out, samples, contexts, part, found):
            progress(fit.words, len(found[fit].choose_finished()), len(held_out))
    except KeyboardInterrupt:
        interrupted = True
    finished = {fit: answers for fit, answers in found.items() if answers.choose_finished()}
    return FittedAnswers(finished, interrupted)


@dataclass
class PartialAnswers:
    """The answers of one way to fit, as they come.

    Attributes:
        held_out: the tasks to evaluate.
        unanswered: the number of samples of each task that are left, by task id.
        seconds: wall-clock seconds so far.
        searched: the answers of searches.
        plain: the answers without a search.
        unadapted: see :class:`FittedScores`.
    """

    held_out: TaskSet
    unanswered: Counter[str]
    seconds: float = 0.0
    searched: list[SearchedAnswer] = field(default_factory=list)
    plain: list[Prediction] = field(default_factory=list)
    unadapted: int = 0

    def choose_finished(self) -> list[Task]:
        """The tasks all of whose samples are answered."""
        return [task for task in self.held_out if not self.unanswered[task.id]]

    def rank(self) -> Candidates:
        """The answers to the finished tasks."""
        return rank_candidates(self.choose_finished(), [*self.plain, *choose_votes(self._choose_searched())])

    def _choose_searched(self) -> list[SearchedAnswer]:
        ids = {task.id for task in self.choose_finished()}
        return [answer for answer in self.searched if answer.prediction.sample.task_id in ids]

    def score(self) -> FittedScores:
        """The scores of the finished tasks."""
        finished = self.choose_finished()
        searched = self._choose_searched()
        predictions = [*self.plain, *choose_votes(searched)]
        held_out = [answer.held_out for answer in searched if not math.isnan(answer.held_out)]
        samples = [prediction.sample for prediction in predictions]
        return FittedScores(
            report=score(finished, samples, predictions),
            seconds=self.seconds / len(finished),
            fitted=fmean(answer.fitted for answer in searched) if searched else None,
            held_out=fmean(held_out) if held_out else None,
            steps=fmean(answer.steps for answer in searched) if searched else None,
            unadapted=self.unadapted,
        )


def _fit_in_turn(
    model: Variant,
    config: Config,
    held_out: TaskSet,
    samples: Sequence[Sample],
    contexts: ContextSearch | None,
    part: AdaptedPart | None,
    found: dict[Fit, PartialAnswers],
) -> Iterator[Fit]:
    """Fit in every way and collect the answers in ``found``; yields the way after each portion of the work."""

    def begin(fit: Fit) -> PartialAnswers:
        return found.setdefault(fit, PartialAnswers(held_out, Counter(sample.task_id for sample in samples)))

    if contexts is not None:
        for _ in _search(contexts, samples, samples, begin(Fit.CONTEXT)):
            yield Fit.CONTEXT
        if config.evaluate.search.control and len(held_out) > 1:
            for _ in _search(contexts, samples, mismatch(samples), begin(Fit.MISMATCHED)):
                yield Fit.MISMATCHED
    if part is None:
        return
    plain, both = begin(Fit.PART), begin(Fit.BOTH) if contexts is not None else None
    for task in held_out:
        own = [sample for sample in samples if sample.task_id == task.id]
        began = time.perf_counter()
        with adapt(model, task, config, part) as adapted:
            cost = time.perf_counter() - began
            _answer(adapted.model, own, config, plain)
            if both is not None and contexts is not None:
                for _ in _search(contexts.with_model(adapted.model), own, own, both):
                    pass
        for answers in filter(None, (plain, both)):
            answers.unadapted += not adapted.losses
            answers.seconds += cost
        yield Fit.PART


def _search(
    contexts: ContextSearch, samples: Sequence[Sample], shown: Sequence[Sample], answers: PartialAnswers
) -> Iterator[None]:
    """Collect the answers of searches; yields after each batch."""
    began = time.perf_counter()
    for batch in contexts.answer_in_turn(samples, shown):
        answers.searched += [answer for own in batch.values() for answer in own]
        answers.unanswered.subtract(samples[place].task_id for place in batch)
        now = time.perf_counter()
        answers.seconds += now - began
        began = now
        yield


def _answer(model: Variant, samples: Sequence[Sample], config: Config, answers: PartialAnswers) -> None:
    """Collect the answers of a model."""
    began = time.perf_counter()
    found = predict(
        samples,
        make_predictor(model, config.evaluate),
        config.evaluate.batch_size,
    )
    answers.plain += [prediction for prediction in found if prediction is not None]
    answers.unanswered.subtract(sample.task_id for sample in samples)
    answers.seconds += time.perf_counter() - began


def choose_votes(answers: Sequence[SearchedAnswer]) -> list[Prediction]:
    """Return the votes: of the searches of a sample those that answer most of its fitted demonstrations.

    A search that fails on what it was fitted to is a poor witness of the rule.
    """
    most: dict[int, float] = {}
    for answer in answers:
        key = id(answer.prediction.sample)
        most[key] = max(most.get(key, 0.0), answer.fitted)
    return [a.prediction for a in answers if a.fitted == most[id(a.prediction.sample)]]

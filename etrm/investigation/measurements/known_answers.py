"""Known-answer predictions: an evaluator scores them, and an independent count checks the score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from etrm.batch import IGNORE
from etrm.data import Sample, TaskSet, build_evaluation_samples
from etrm.data.augment import identity, parse_name
from etrm.data.tokens import FIRST_COLOUR, PAD, VOCAB
from etrm.evaluation import Answer, Predictor
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.trainer import Trainer

VOTES = 4
"""Augmentations of a known-answer evaluation, whatever the config has: one vote would hide a missing inverse."""
SIZES = (4, 64)
"""Tasks of the known-answer evaluations besides all: a wrong denominator may be right for one size, not for three."""


class KnownAnswers(StrEnum):
    """The predictions that are right; the others are wrong."""

    ALL_RIGHT = "all-right"
    EVERY_SECOND = "every-second"
    FIRST_QUERIES = "first-queries"
    AUGMENTED = "augmented"
    ALL_WRONG = "all-wrong"
    ONE_VOTE = "one-vote"
    TOO_LARGE = "too-large"

    @property
    def words(self) -> str:
        """The predictions as a report names them."""
        return {
            KnownAnswers.ALL_RIGHT: "all right",
            KnownAnswers.EVERY_SECOND: "every second right",
            KnownAnswers.FIRST_QUERIES: "the first query of every task right",
            KnownAnswers.AUGMENTED: "right only under augmentation",
            KnownAnswers.ALL_WRONG: "all wrong",
            KnownAnswers.ONE_VOTE: f"right by one vote of {VOTES}",
            KnownAnswers.TOO_LARGE: "the right cells in a larger grid",
        }[self]


@dataclass(frozen=True)
class KnownAnswerScore:
    """One evaluation of predictions whose score is known.

    Attributes:
        answers: the known answers.
        tasks: number of tasks in the set that is evaluated.
        refused: the reason why the evaluator gives no such score, or nothing.
        asked: number of tasks that were evaluated.
        solved: number of tasks whose answers are right and within reach.
        reported_asked, reported_solved: the same numbers as the evaluator reports them.
        score: pass@k by the evaluator.
        wanted: pass@k by counting, the mean over the tasks of the share of queries with right answers.
        k: number of candidates that count.
    """

    answers: KnownAnswers
    tasks: int
    asked: int
    solved: int
    reported_asked: int
    reported_solved: int
    score: float
    wanted: float
    k: int = 1
    refused: str = ""

    @property
    def what(self) -> str:
        """The known answers, the number of tasks, and whether the evaluator refused them."""
        return f"{self.answers.words}, {self.tasks} tasks{', ' if self.refused else ''}{self.refused}"

    @property
    def right(self) -> bool:
        """Whether the evaluator reports the known score."""
        counts = (self.reported_asked, self.reported_solved) == (self.asked, self.solved)
        return counts and abs(self.score - self.wanted) < 1e-9

    @property
    def words(self) -> str:
        """The known score and the reported one."""
        return (
            f"{self.what}, pass@{self.k}: {self.reported_solved} of {self.reported_asked} tasks "
            f"({self.score:.1%}) reported, {self.solved} of {self.asked} ({self.wanted:.1%}) expected"
        )


def right_answer(sample: Sample) -> Answer:
    """The labels of a sample, PAD where it is not scored."""
    return np.where(sample.labels == IGNORE, PAD, sample.labels), 0.0


def wrong_answer(sample: Sample) -> Answer:
    """The labels of a sample with every colour exchanged for another."""
    tokens, logit = right_answer(sample)
    mirrored = FIRST_COLOUR + VOCAB - 1 - tokens
    return np.where(tokens >= FIRST_COLOUR, mirrored, tokens), logit


def black_answer(sample: Sample) -> Answer:
    """The labels of a sample with every colour black, which is the same under every augmentation."""
    tokens, logit = right_answer(sample)
    return np.where(tokens >= FIRST_COLOUR, FIRST_COLOUR, tokens), logit


def large_answer(sample: Sample) -> Answer:
    """The labels of a sample, with black wherever its grid has ended."""
    tokens, logit = right_answer(sample)
    return np.maximum(tokens, FIRST_COLOUR), logit


Right = Callable[[Sample], bool]
Wrong = Callable[[Sample], Answer]


def make_predictor(right: Right, wrong: Wrong = wrong_answer) -> Predictor:
    """A predictor that is right for some samples and wrong for the others."""

    def answer(samples: Sequence[Sample]) -> list[Answer]:
        return [right_answer(s) if right(s) else wrong(s) for s in samples]

    return answer


def is_black(sample: Sample) -> bool:
    """Whether the right answer is all black."""
    return bool(np.array_equal(right_answer(sample)[0], black_answer(sample)[0]))


def fills_region(sample: Sample) -> bool:
    """Whether the right answer leaves no room for a larger grid."""
    return bool((right_answer(sample)[0] >= FIRST_COLOUR).all())


def is_augmented(sample: Sample) -> bool:
    """Whether the sample is another than the plain one, which is evaluated first."""
    return parse_name(sample.name)[1] != identity()


def evaluate_known_answers(trainer: Trainer) -> tuple[KnownAnswerScore, ...]:
    """Evaluations in an order that shows whether votes are kept between them: right answers before wrong ones."""
    whole = load_held_out_tasks(trainer.config)
    sizes = sorted({min(size, len(whole)) for size in (*SIZES, len(whole))})
    found = []
    for size in sizes:
        tasks = replace(whole, tasks=whole.tasks[:size])
        second = frozenset(task.id for task in tasks.tasks[::2])
        # The right samples, and those that are then right by a majority of the votes.
        cases: tuple[tuple[KnownAnswers, Right, Right], ...] = (
            (KnownAnswers.ALL_RIGHT, lambda s: True, lambda s: True),
            (KnownAnswers.EVERY_SECOND, lambda s: s.task_id in second, lambda s: s.task_id in second),  # noqa: B023
            (KnownAnswers.FIRST_QUERIES, lambda s: s.query == 0, lambda s: s.query == 0),
            (KnownAnswers.AUGMENTED, is_augmented, lambda s: True),
            (KnownAnswers.ALL_WRONG, lambda s: False, lambda s: False),
        )
        found += [
            _score(trainer, answers, tasks, make_predictor(right), wins) for answers, right, wins in cases
        ]
        # One right vote against three that agree: the right answer comes second.
        second_place = make_predictor(lambda s: not is_augmented(s), black_answer)
        found.append(_score(trainer, KnownAnswers.ONE_VOTE, tasks, second_place, is_black))
        found.append(_score(trainer, KnownAnswers.ONE_VOTE, tasks, second_place, lambda s: True, k=2))
        larger = make_predictor(lambda s: False, large_answer)
        found.append(_score(trainer, KnownAnswers.TOO_LARGE, tasks, larger, fills_region))
    return tuple(found)


def _score(
    trainer: Trainer, answers: KnownAnswers, tasks: TaskSet, predictor: Predictor, wins: Right, k: int = 1
) -> KnownAnswerScore:
    """The score that the evaluator reports for k candidates, with an independent count."""
    right_by_task: dict[str, list[bool]] = {task.id: [] for task in tasks}
    for sample in build_evaluation_samples(tasks, trainer.config.data, 1, 0):
        right_by_task[sample.task_id].append(sample.in_region and wins(sample))
    reported, refused = (0, 0, 0.0), ""
    try:
        report = trainer.recipe.evaluate(
            tasks, predictor, augmentations=VOTES, data=trainer.config.data, ks=(1, 2)
        )
        if (passed := report.pass_at.get(k)) is None:
            refused = "not reported"
        else:
            reported = (passed.asked, passed.solved, passed.score)
    except ValueError as error:  # answers of the required form are refused
        refused = f"refused ({error})"
    return KnownAnswerScore(
        answers=answers,
        tasks=len(tasks),
        asked=len(right_by_task),
        solved=sum(map(all, right_by_task.values())),
        reported_asked=reported[0],
        reported_solved=reported[1],
        score=reported[2],
        wanted=sum(sum(right) / len(right) for right in right_by_task.values()) / len(right_by_task),
        k=k,
        refused=refused,
    )

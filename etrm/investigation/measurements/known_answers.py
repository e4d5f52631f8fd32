"""Predictions whose score is known, put through an evaluator: what it reports against an independent count."""

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
"""Augmentations of a planted evaluation, whatever the subject's: one vote hides a missing inverse."""
SIZES = (4, 64)


class KnownAnswers(StrEnum):
    """Which predictions are right; the others are wrong."""

    ALL_RIGHT = "all-right"
    EVERY_SECOND = "every-second"
    FIRST_QUERIES = "first-queries"
    AUGMENTED = "augmented"
    ALL_WRONG = "all-wrong"
    ONE_VOTE = "one-vote"

    @property
    def words(self) -> str:
        """The predictions as a report names them."""
        return {
            KnownAnswers.ALL_RIGHT: "all right",
            KnownAnswers.EVERY_SECOND: "every second right",
            KnownAnswers.FIRST_QUERIES: "the first query of every task right",
            KnownAnswers.AUGMENTED: "right under augmentation alone",
            KnownAnswers.ALL_WRONG: "all wrong",
            KnownAnswers.ONE_VOTE: f"right by one vote of {VOTES}",
        }[self]


@dataclass(frozen=True)
class Planted:
    """One evaluation of predictions whose score is known.

    Attributes:
        answers: that were planted.
        tasks: in the set that is evaluated.
        refused: why the evaluator gives no such score, or nothing.
        asked: tasks that were asked.
        solved: of them, those that were planted right and can be answered.
        reported_asked, reported_solved: by the evaluator.
        score: pass@k by the evaluator.
        wanted: pass@k by counting, the mean over the tasks of the share of queries planted right.
        k: candidates that may be tried.
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
        """What was planted, on how many tasks, and whether it was refused."""
        return f"{self.answers.words}, {self.tasks} tasks{', ' if self.refused else ''}{self.refused}"

    @property
    def right(self) -> bool:
        """Whether the evaluator says what was planted."""
        counts = (self.reported_asked, self.reported_solved) == (self.asked, self.solved)
        return counts and abs(self.score - self.wanted) < 1e-9

    @property
    def words(self) -> str:
        """What was planted and what came out."""
        return (
            f"{self.what}, pass@{self.k}: {self.reported_solved} of {self.reported_asked} tasks "
            f"({self.score:.1%}) reported, {self.solved} of {self.asked} ({self.wanted:.1%}) planted"
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


Right = Callable[[Sample], bool]
Wrong = Callable[[Sample], Answer]


def planted(right: Right, wrong: Wrong = wrong_answer) -> Predictor:
    """Right for some samples, wrong for the others."""

    def answer(samples: Sequence[Sample]) -> list[Answer]:
        return [right_answer(s) if right(s) else wrong(s) for s in samples]

    return answer


def black(sample: Sample) -> bool:
    """Whether the right answer is all black."""
    return bool(np.array_equal(right_answer(sample)[0], black_answer(sample)[0]))


def augmented(sample: Sample) -> bool:
    """Whether the sample is another than the plain one, which is asked first."""
    return parse_name(sample.name)[1] != identity()


def evaluate_known_answers(trainer: Trainer) -> tuple[Planted, ...]:
    """Evaluations in an order that shows what is kept between them: right answers before wrong ones."""
    whole = load_held_out_tasks(trainer.config)
    sizes = sorted({min(size, len(whole)) for size in (*SIZES, len(whole))})
    found = []
    for size in sizes:
        tasks = replace(whole, tasks=whole.tasks[:size])
        second = frozenset(task.id for task in tasks.tasks[::2])
        # What is right, and what is then right by a majority of the votes.
        cases: tuple[tuple[KnownAnswers, Right, Right], ...] = (
            (KnownAnswers.ALL_RIGHT, lambda s: True, lambda s: True),
            (KnownAnswers.EVERY_SECOND, lambda s: s.task_id in second, lambda s: s.task_id in second),  # noqa: B023
            (KnownAnswers.FIRST_QUERIES, lambda s: s.query == 0, lambda s: s.query == 0),
            (KnownAnswers.AUGMENTED, augmented, lambda s: True),
            (KnownAnswers.ALL_WRONG, lambda s: False, lambda s: False),
        )
        found += [_asked(trainer, answers, tasks, planted(right), wins) for answers, right, wins in cases]
        # One right vote against three that agree: the right answer comes second.
        second_place = planted(lambda s: not augmented(s), black_answer)
        found.append(_asked(trainer, KnownAnswers.ONE_VOTE, tasks, second_place, black))
        found.append(_asked(trainer, KnownAnswers.ONE_VOTE, tasks, second_place, lambda s: True, k=2))
    return tuple(found)


def _asked(
    trainer: Trainer, answers: KnownAnswers, tasks: TaskSet, predictor: Predictor, wins: Right, k: int = 1
) -> Planted:
    """What the evaluator says of k candidates, held against a count that it has no part in."""
    asked: dict[str, list[bool]] = {task.id: [] for task in tasks}
    for sample in build_evaluation_samples(tasks, trainer.config.data, 1, 0):
        asked[sample.task_id].append(sample.in_region and wins(sample))
    reported, refused = (0, 0, 0.0), ""
    try:
        report = trainer.recipe.evaluate(
            tasks, predictor, augmentations=VOTES, data=trainer.config.data, ks=(1, 2)
        )
        if (passed := report.pass_at.get(k)) is None:
            refused = "not reported"
        else:
            reported = (passed.asked, passed.solved, passed.score)
    except ValueError as error:  # answers of the form that was asked for are refused
        refused = f"refused ({error})"
    return Planted(
        answers=answers,
        tasks=len(tasks),
        asked=len(asked),
        solved=sum(map(all, asked.values())),
        reported_asked=reported[0],
        reported_solved=reported[1],
        score=reported[2],
        wanted=sum(sum(right) / len(right) for right in asked.values()) / len(asked),
        k=k,
        refused=refused,
    )

"""Turn predicted tokens into ranked answers: crop, invert the augmentation, and count votes per query.

Every function is pure. Votes exist only as arguments, so they cannot leak from one evaluation into the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from etrm.config import SIDE
from etrm.data.augment import parse_name
from etrm.data.sample import Sample
from etrm.data.task import Grid, hash_grid
from etrm.data.tokens import PAD, read_grid
from etrm.errors import ArgumentError

Answer: TypeAlias = tuple[npt.NDArray[np.integer], float]
"""The answer of a model to one sample: (S,) predicted tokens, and the halting logit."""

Predictor: TypeAlias = Callable[[Sequence[Sample]], Sequence[Answer | None]]
"""A function that answers samples in their order. None means no prediction, which counts as wrong."""

QueryKey: TypeAlias = tuple[str, str]
"""The task id, and the hash of the query input without augmentation."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer to one sample: (S,) tokens and the halting logit."""

    sample: Sample
    tokens: npt.NDArray[np.integer]
    q_halt: float

    def __post_init__(self) -> None:
        if self.tokens.shape != self.sample.tokens.shape:
            raise ArgumentError(
                "evaluate.wrong-shape",
                f"{self.sample.name}: the predicted tokens have shape {self.tokens.shape}, the sample has "
                f"{self.sample.tokens.shape}",
            )

    @cached_property
    def grid(self) -> Grid:
        """The predicted grid without augmentation; its shape is (0, 0) if the first token is not a colour."""
        return undo_augmentation(self.sample, self.tokens)

    @cached_property
    def query(self) -> QueryKey:
        """The query to which this prediction is a vote."""
        return self.sample.task_id, hash_grid(undo_augmentation(self.sample, self.sample.tokens))


@dataclass(frozen=True, eq=False)
class Candidate:
    """An answer that has votes.

    Attributes:
        grid: the grid; its shape is (0, 0) for predictions that contain no grid.
        votes: the number of predictions with this grid.
        halting: the mean of their halting probabilities.
    """

    grid: Grid
    votes: int
    halting: float


def undo_augmentation(sample: Sample, tokens: npt.NDArray[np.integer]) -> Grid:
    """Return the grid of a sample's tokens, without the augmentation of the sample."""
    if sample.translated != (0, 0):
        raise ArgumentError(
            "evaluate.shifted-sample",
            f"{sample.name} is shifted by {sample.translated}; only training samples may be shifted",
        )
    canvas = np.full((SIDE, SIDE), PAD, dtype=np.int64)
    canvas[np.divmod(sample.positions, SIDE)] = tokens
    _, augmentation = parse_name(sample.name)
    return augmentation.inverse(read_grid(canvas))


def group_by_query(predictions: Iterable[Prediction]) -> dict[QueryKey, list[Prediction]]:
    """Return the predictions grouped by query."""
    groups: dict[QueryKey, list[Prediction]] = {}
    for prediction in predictions:
        groups.setdefault(prediction.query, []).append(prediction)
    return groups


def rank(predictions: Iterable[Prediction]) -> tuple[Candidate, ...]:
    """Return the candidates of one query: most votes first, then highest mean sigmoid(q_halt).

    Remaining ties are broken by the hash of the grid, so that the order of the predictions does not matter. As in the
    published evaluator, a prediction without a grid is a vote for the empty grid, which takes a rank among the
    candidates and is never correct.
    """
    ballots: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        ballots.setdefault(hash_grid(prediction.grid), []).append(prediction)
    found = {key: _candidate(ballot) for key, ballot in ballots.items()}
    order = sorted(found, key=lambda key: (-found[key].votes, -found[key].halting, key))
    return tuple(found[key] for key in order)


def _candidate(ballot: Sequence[Prediction]) -> Candidate:
    halting = math.fsum(_sigmoid(prediction.q_halt) for prediction in ballot) / len(ballot)
    return Candidate(ballot[0].grid, len(ballot), halting)


def _sigmoid(logit: float) -> float:
    """Return the logistic function of a logit; a NaN counts as the lowest value."""
    if math.isnan(logit):
        return 0.0
    if logit < 0:
        return math.exp(logit) / (1 + math.exp(logit))
    return 1 / (1 + math.exp(-logit))

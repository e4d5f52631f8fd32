"""From predicted tokens to ranked answers: crop, undo the augmentation, count votes per query.

Every function is pure: votes exist only as the predictions that are passed in, so none can leak
from one evaluation into the next.
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
"""What a model says to one sample: a token for each of the sample's (S,), and its halting logit."""

Predictor: TypeAlias = Callable[[Sequence[Sample]], Sequence[Answer | None]]
"""Answers samples in their order; None where there is no prediction, which counts as wrong."""

QueryKey: TypeAlias = tuple[str, str]
"""Task id, and hash of the query input without augmentation."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """One sample's answer, (S,) tokens and the halting logit."""

    sample: Sample
    tokens: npt.NDArray[np.integer]
    q_halt: float

    def __post_init__(self) -> None:
        if self.tokens.shape != self.sample.tokens.shape:
            raise ArgumentError(
                "evaluate.wrong-shape",
                f"{self.sample.name}: predicted tokens {self.tokens.shape}, evaluated {self.sample.tokens.shape}",
            )

    @cached_property
    def grid(self) -> Grid:
        """The predicted grid without augmentation; (0, 0) where the first token is no colour."""
        return undo_augmentation(self.sample, self.tokens)

    @cached_property
    def query(self) -> QueryKey:
        """The query that this is a vote on."""
        return self.sample.task_id, hash_grid(undo_augmentation(self.sample, self.sample.tokens))


@dataclass(frozen=True, eq=False)
class Candidate:
    """An answer that got votes.

    Attributes:
        grid: the answer; (0, 0) stands for predictions that hold no grid.
        votes: predictions that gave it.
        halting: mean of their halting probabilities.
    """

    grid: Grid
    votes: int
    halting: float


def undo_augmentation(sample: Sample, tokens: npt.NDArray[np.integer]) -> Grid:
    """The grid that a sample's tokens show, without the sample's augmentation."""
    if sample.translated != (0, 0):
        raise ArgumentError(
            "evaluate.shifted-sample",
            f"{sample.name} is shifted by {sample.translated}; only training samples may be",
        )
    canvas = np.full((SIDE, SIDE), PAD, dtype=np.int64)
    canvas[np.divmod(sample.positions, SIDE)] = tokens
    _, augmentation = parse_name(sample.name)
    return augmentation.inverse(read_grid(canvas))


def group_by_query(predictions: Iterable[Prediction]) -> dict[QueryKey, list[Prediction]]:
    """Predictions grouped by what they answer."""
    groups: dict[QueryKey, list[Prediction]] = {}
    for prediction in predictions:
        groups.setdefault(prediction.query, []).append(prediction)
    return groups


def rank(predictions: Iterable[Prediction]) -> tuple[Candidate, ...]:
    """The candidates of one query: most votes first, then highest mean sigmoid(q_halt).

    What is still tied goes by the hash of the grid, so that the order of the predictions never
    matters. As in the published evaluator a prediction without a grid votes for the empty grid,
    which takes a place among the candidates and can never be right.
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
    """The logistic function; a NaN counts as the least."""
    if math.isnan(logit):
        return 0.0
    if logit < 0:
        return math.exp(logit) / (1 + math.exp(logit))
    return 1 / (1 + math.exp(-logit))

"""What a change of the code does to a run: the same config and seed are trained and evaluated with and without it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.saved_steps import list_saved
from etrm.investigation.unlisted.program import EVALUATION

LEAST = 1e-3
"""A smaller difference of the weights, as a share of the way that training moved them, is numeric noise: training on
one thread is repeatable bit for bit, and equal functions that round differently (a factor before a norm) stay below."""


@dataclass(frozen=True)
class ChangeEffect:
    """The difference that a change makes.

    Attributes:
        weights: the distance of the last weights (raw or averaged, the larger one), as a share of the way that training
            moved them.
        answers: whether the evaluation reports other scores, votes or answers.
        logged: whether logged numbers differ.
    """

    weights: float
    answers: bool
    logged: bool

    @property
    def alters_training(self) -> bool:
        """Whether weights or answers differ by more than numeric noise."""
        return self.answers or not self.weights <= LEAST  # a NaN counts


def compare_runs(unchanged: Path, changed: Path) -> ChangeEffect:
    """Compare two run folders that :mod:`etrm.investigation.unlisted.program` trained and evaluated."""
    first, last = _checkpoints(unchanged)
    _, other = _checkpoints(changed)
    way = _distance(first.model, last.model)
    distances = [_distance(last.model, other.model), _distance(last.ema, other.ema)]
    worst = math.nan if any(math.isnan(distance) for distance in distances) else max(distances)
    return ChangeEffect(
        worst / way, _differ(*_read_both(unchanged, changed, EVALUATION)), _log_differs(unchanged, changed)
    )


def _checkpoints(folder: Path) -> tuple[checkpoints.Checkpoint, checkpoints.Checkpoint]:
    found = list_saved(folder / "checkpoints")
    return checkpoints.read(found[0]), checkpoints.read(found[-1])


def _distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return math.sqrt(math.fsum(float((a[name].double() - b[name].double()).square().sum()) for name in a))


def _read_both(a: Path, b: Path, name: str) -> Iterator[Any]:
    return (json.loads((folder / name).read_text("utf-8")) for folder in (a, b))


def _differ(a: Any, b: Any) -> bool:
    """Whether two JSON values differ, floats by more than the limit."""
    if isinstance(a, float) and isinstance(b, float):
        return not abs(a - b) <= LEAST
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() != b.keys() or any(_differ(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) != len(b) or any(_differ(x, y) for x, y in zip(a, b, strict=True))
    return bool(a != b)


def _log_differs(a: Path, b: Path) -> bool:
    logs = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
        for folder in (a, b)
    ]
    for line in (*logs[0], *logs[1]):
        line.pop("seconds", None)
    return _differ(*logs)

"""Misleading scores by the reference: intervals of published tables, and answers that were written out."""

from __future__ import annotations

import numpy as np
import pytest

from etrm.config import DataConfig
from etrm.data.task import Grid, Pair, Task
from etrm.reference.data.canvas import COLOUR, PAD, UNSCORED, Integers
from etrm.reference.data.loader import ReferenceRow
from etrm.reference.departure import PipelineStage
from etrm.reference.evaluation.evaluation_stages import EvaluationRequest, list_evaluated
from etrm.reference.evaluation.misleading_scores import (
    ExpectedShare,
    compare_misleading,
    compute_misleading,
    find_quantile,
    give_size,
    pose_pairs,
)
from tests.reference.invented import make_tasks


def paint(*rows: str) -> Grid:
    return np.array([[int(cell) for cell in row] for row in rows], dtype=np.uint8)


FIRST, SECOND = Pair(paint("12", "30"), paint("12", "30")), Pair(paint("45", "60"), paint("54", "06"))
REQUEST = EvaluationRequest(
    make_tasks(Task("a", (FIRST, SECOND), (FIRST,)), Task("b", (FIRST, FIRST), (SECOND,))),
    DataConfig(),
    augmentations=1,
    seed=0,
    ks=(1,),
)


def copy_input(row: ReferenceRow) -> Integers:
    return row.tokens


def fill(row: ReferenceRow) -> Integers:
    """The right answer without a border: too large."""
    return np.maximum(np.where(row.labels == UNSCORED, PAD, row.labels), COLOUR)


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.706), (2, 4.303), (5, 2.571), (10, 2.228), (30, 2.042)]
)
def test_quantiles_are_those_of_tables(freedom: int, value: float) -> None:
    assert find_quantile(freedom) == pytest.approx(value, abs=5e-4)


def test_only_demonstrations_with_another_one_become_tasks() -> None:
    assert [task.id for task in pose_pairs(REQUEST.tasks)] == ["a-pair-0", "a-pair-1"]


def test_the_true_size_crops_and_fills_with_black() -> None:
    row = next(row for row in list_evaluated(REQUEST) if row.drawing.asked.task.id == "b")
    right = np.where(row.labels == UNSCORED, PAD, row.labels)
    black = np.where(right >= COLOUR, COLOUR, right)
    assert give_size(fill)(row).tolist() == right.tolist()
    assert give_size(lambda row: np.zeros_like(row.tokens))(row).tolist() == black.tolist()


def test_each_score_counts_what_its_name_says() -> None:
    found = compute_misleading(REQUEST, copy_input, fill)
    assert {name: (share.value, share.of) for name, share in found.items()} == {
        "tasks": (0.5, 2),
        "pairs": (0.5, 2),
        "true-size": (0.5, 2),
        "noise": (0.0, 2),
        "all-three": (1.0, 2),
        "cells": (0.5, 2),
    }
    assert (found["cells"].low, found["cells"].high) == (0.0, 1.0)


def test_a_score_that_is_missing_or_has_another_interval_departs() -> None:
    right = compute_misleading(REQUEST, copy_input, fill)
    assert compare_misleading(REQUEST, copy_input, fill, right) == []
    changed = dict(right)
    del changed["pairs"]
    changed["tasks"] = ExpectedShare(0.5, 0.1, right["tasks"].high, 2)
    found = compare_misleading(REQUEST, copy_input, fill, changed)
    assert [(one.stage, one.tensor) for one in found] == [
        (PipelineStage.SCORE, "low"),
        (PipelineStage.SCORE, "share"),
    ]

"""A curriculum: training on tasks of rising grid size, by optimiser steps."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, TypedDict


class CurriculumStage(NamedTuple):
    """Some steps in a row on tasks of similar grid size.

    Attributes:
        max_side: the largest side of a task's demonstration inputs; the tasks of earlier stages are not included.
        steps: the number of optimiser steps.
    """

    max_side: int
    steps: int


Curriculum = tuple[CurriculumStage, ...]


class CurriculumSettings(TypedDict):
    """The settings of the data section that belong to a curriculum."""

    curriculum: Curriculum
    replay: float


NO_CURRICULUM = CurriculumSettings(curriculum=(), replay=0.0)
"""The settings of a run on all tasks at once."""


def is_curriculum(value: Any) -> bool:
    """Return whether a value is a list of stages, each a list of two positive integers."""
    return isinstance(value, list | tuple) and all(
        isinstance(stage, list | tuple)
        and len(stage) == len(CurriculumStage._fields)
        and all(type(number) is int and number > 0 for number in stage)
        for stage in value
    )


def find_stage(curriculum: Sequence[CurriculumStage], step: int) -> int:
    """Return the index of the stage of a 0-based step. The last stage has no end; 0 without a curriculum."""
    ends = list(accumulate(stage.steps for stage in curriculum))
    return min(bisect_right(ends, step), max(0, len(ends) - 1))


def shorten_curriculum(
    curriculum: Sequence[CurriculumStage], replay: float, steps: int
) -> CurriculumSettings:
    """Return the settings for the first steps of a run."""
    begins = accumulate((stage.steps for stage in curriculum), initial=0)
    left = zip(curriculum, (steps - begin for begin in begins), strict=False)
    return _join(
        [CurriculumStage(stage.max_side, min(stage.steps, rest)) for stage, rest in left if rest > 0], replay
    )


def scale_curriculum(curriculum: Sequence[CurriculumStage], replay: float, steps: int) -> CurriculumSettings:
    """Return the settings for the same run in another number of steps, in which every stage keeps its share.

    In a run of fewer steps than stages, a stage may get no step: its tasks then belong to the next stage.
    """
    total = sum(stage.steps for stage in curriculum)
    ends = [0, *(round(end * steps / total) for end in accumulate(stage.steps for stage in curriculum))]
    spans = (end - begin for begin, end in pairwise(ends))
    stages = zip(curriculum, spans, strict=True)
    return _join([CurriculumStage(stage.max_side, span) for stage, span in stages if span], replay)


def _join(stages: Sequence[CurriculumStage], replay: float) -> CurriculumSettings:
    return CurriculumSettings(curriculum=tuple(stages), replay=replay if len(stages) > 1 else 0.0)

"""Curricula: what is one, the stage of a step, and shorter versions of a run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from etrm.config import DataConfig, load
from etrm.config.curriculum import (
    NO_CURRICULUM,
    CurriculumStage,
    find_stage,
    scale_curriculum,
    shorten_curriculum,
)

STAGES = st.lists(st.integers(1, 50), min_size=1, max_size=5).map(
    lambda steps: tuple(CurriculumStage(5 * number, n) for number, n in enumerate(steps, start=1))
)


@pytest.mark.parametrize(
    "value",
    [
        "all",
        5,
        [5, 10],
        [[5]],
        [[5, 10, 3]],
        [[5, 0]],
        [[0, 5]],
        [[5.0, 10]],
        [[True, 10]],
        [["5", 10]],
        None,
    ],
)
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        DataConfig(curriculum=value)
    assert [error["type"] for error in caught.value.errors()] == ["config.unreadable-curriculum"]


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"curriculum": [[5, 10], [5, 10]]}, "config.unordered-curriculum"),
        ({"curriculum": [[10, 10], [5, 10]]}, "config.unordered-curriculum"),
        ({"replay": 0.2}, "config.replay-without-earlier-stage"),
        ({"curriculum": [[5, 10]], "replay": 0.2}, "config.replay-without-earlier-stage"),
    ],
)
def test_stages_that_contradict_each_other_are_refused(settings: dict[str, Any], code: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DataConfig(**settings)
    assert [error["type"] for error in caught.value.errors()] == [code]


def test_a_file_and_the_command_line_give_the_same_stages(tmp_path: Any) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[data]\ncurriculum = [[5, 400], [10, 600]]\nreplay = 0.1\n")
    texts = ("data.curriculum=[[5, 400], [10, 600]]", "data.replay=0.1")
    assert load(path=file) == load(overrides=texts)
    assert load(path=file).data.curriculum == (CurriculumStage(5, 400), CurriculumStage(10, 600))


@given(STAGES, st.integers(0, 300))
def test_the_stage_of_a_step(stages: tuple[CurriculumStage, ...], step: int) -> None:
    by_hand = [number for number, stage in enumerate(stages) for _ in range(stage.steps)]
    assert find_stage(stages, step) == (by_hand[step] if step < len(by_hand) else len(stages) - 1)
    assert find_stage((), step) == 0


@given(STAGES, st.integers(1, 300))
def test_the_first_steps_have_the_same_stages(stages: tuple[CurriculumStage, ...], steps: int) -> None:
    total = sum(stage.steps for stage in stages)
    found = shorten_curriculum(stages, 0.3, min(steps, total))
    assert sum(stage.steps for stage in found["curriculum"]) == min(steps, total)
    for step in range(min(steps, total)):
        assert find_stage(found["curriculum"], step) == find_stage(stages, step)
    assert found["replay"] == (0.3 if len(found["curriculum"]) > 1 else 0)
    assert DataConfig(**found)


@given(STAGES, st.integers(1, 300))
def test_every_stage_keeps_its_share(stages: tuple[CurriculumStage, ...], steps: int) -> None:
    found = scale_curriculum(stages, 0.3, steps)
    assert sum(stage.steps for stage in found["curriculum"]) == steps
    shares = {stage.max_side: stage.steps for stage in found["curriculum"]}
    total = sum(stage.steps for stage in stages)
    for stage in stages:
        assert abs(shares.get(stage.max_side, 0) - stage.steps * steps / total) <= 1
    assert DataConfig(**found)


def test_no_curriculum_stays_none() -> None:
    assert shorten_curriculum((), 0.0, 5) == scale_curriculum((), 0.0, 5) == NO_CURRICULUM

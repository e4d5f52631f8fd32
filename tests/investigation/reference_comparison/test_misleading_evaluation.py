"""The misleading scores depart nowhere, and a planted change of them is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from etrm.config import Config
from etrm.data import Sample, TaskSet
from etrm.data.task import Grid, Task
from etrm.evaluation import misleading
from etrm.evaluation.misleading import Share
from etrm.evaluation.statistics import paired_t_interval
from etrm.investigation.reference_comparison.misleading_evaluation import (
    compare_misleading_scores,
    compare_noise,
)
from etrm.model.variant import Variant
from etrm.reference.departure import PipelineStage
from etrm.training.trainer import Trainer
from tests.reference.invented import few_of


def start(**changes: Any) -> Trainer:
    config: Config = few_of("smoke", evaluate={"max_tasks": 6}, monitor={"enabled": False}, **changes)
    return Trainer(config)


def test_the_scores_of_a_run_depart_nowhere() -> None:
    trainer = start()
    random = torch.get_rng_state()
    assert compare_misleading_scores(trainer) == []
    assert torch.equal(torch.get_rng_state(), random)


def test_a_model_without_an_encoder_has_no_such_scores() -> None:
    assert compare_misleading_scores(start(model={"variant": "trm"}, data={"augmentations": 2})) == []


def crop_only(sample: Sample, tokens: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    assert sample.target is not None
    true = misleading.to_canvas(sample.target, sample.side).ravel()[sample.positions]
    return np.where(true >= 2, tokens, true)


def pose_all(tasks: TaskSet) -> TaskSet:
    made = [Task(f"{t.id}-pair-{n}", t.demos, (pair,)) for t in tasks for n, pair in enumerate(t.demos[:1])]
    return replace(tasks, tasks=tuple(made))


def compare_coloured_cells(true: Grid, found: Grid) -> float:
    return float((true == found)[true > 0].mean())


def average_narrowly(values: Sequence[float]) -> Share:
    found = paired_t_interval(values, 0.9)
    return Share(float(np.mean(values)), max(0.0, found.low), min(1.0, found.high), len(values))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("_fit", crop_only),
        ("make_pair_tasks", pose_all),
        ("_compare_cells", compare_coloured_cells),
        ("fit_true_sizes", lambda predictor: predictor),
    ],
)
def test_a_changed_score_departs(monkeypatch: pytest.MonkeyPatch, name: str, changed: Any) -> None:
    monkeypatch.setattr(misleading, name, changed)
    found = compare_misleading_scores(start())
    assert found
    assert {departure.stage for departure in found} == {PipelineStage.SCORE}


def test_a_narrower_interval_departs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Share, "averaged", average_narrowly)
    assert [found.tensor for found in compare_misleading_scores(start())] == ["low"]


def test_noise_of_another_size_departs(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Variant.draw_noisy
    monkeypatch.setattr(Variant, "draw_noisy", lambda model, x: x + 0.5 * (plain(model, x) - x))
    [found] = compare_noise(start())
    assert found.size == pytest.approx(0.5, rel=1e-3)

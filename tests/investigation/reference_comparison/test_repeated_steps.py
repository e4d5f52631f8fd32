"""The step at which a departure begins, by repeated steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from etrm.config import Config, load, with_settings
from etrm.investigation.reference_comparison.reference_check import ReferenceFacts, check_course
from etrm.investigation.reference_comparison.repeated_steps import add_steps_before_departure
from etrm.reference.departure import Departure, PipelineStage
from etrm.training import recipe
from etrm.training.monitoring.step_check import ComparedStep
from etrm.training.trainer import Trainer, train

BEGINS = 11
"""The step at which the planted fault begins; steps 1 to 3 are compared, then one of twenty."""
CONFIG = with_settings(
    load("smoke"),
    data={"max_tasks": 6, "max_side": 3},
    train={
        "batch_size": 2,
        "threads": 1,
        "warmup_steps": 0,
        "steps": 20,
        "checkpoint_every": 8,
        "keep_checkpoints": 9,
    },
    monitor={"reference_every": 20},
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose loss is doubled from a step on."""
    with pytest.MonkeyPatch.context() as patch:
        double_loss(patch)
        folder = tmp_path_factory.mktemp("late") / "run"
        train(CONFIG, folder)
    return folder


def double_loss(
    patch: pytest.MonkeyPatch, doubled: Callable[[int], bool] = lambda step: step >= BEGINS
) -> None:
    """Double the loss of some 1-based steps: by default from the planted one on."""

    def weigh(loss: Tensor, step: int) -> Tensor:
        return loss * (2 if doubled(step + 1) else 1)

    build = recipe.Recipe.__init__

    def changed(self: recipe.Recipe, *args: Any, **named: Any) -> None:
        build(self, *args, **{**named, "weigh": weigh})

    patch.setattr(recipe.Recipe, "__init__", changed)


def repeat(folder: Path, config: Config = CONFIG, most: int = 100) -> ReferenceFacts:
    return add_steps_before_departure(check_course(folder), folder, config, most)


def test_the_first_departing_step_is_found_from_the_nearest_checkpoint(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = check_course(run)
    assert compared.first is not None
    assert compared.first.step is not None
    assert compared.first.step > BEGINS  # the run itself saw it later
    double_loss(monkeypatch)
    found = repeat(run)
    assert found.first is not None
    assert (found.first.step, found.first.stage) == (BEGINS, PipelineStage.GRADIENT)
    assert BEGINS - 1 in {step.step for step in found.steps if not step.departures}
    assert [step.step for step in found.steps] == sorted({step.step for step in found.steps})


def test_steps_after_a_compared_one_start_at_the_checkpoint(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    advance = Trainer.advance

    def counted(self: Trainer, *args: Any) -> Any:
        taken.append(self.step + 1)
        return advance(self, *args)

    compared = check_course(run).steps
    ten = replace(compared[0], step=10)
    departing = next(step for step in compared if step.departures)
    double_loss(monkeypatch)
    monkeypatch.setattr(Trainer, "advance", counted)
    add_steps_before_departure(ReferenceFacts((ten, departing)), run, CONFIG, 100)
    assert taken == list(range(9, BEGINS + 1))


def test_a_fault_of_one_bucket_begins_before_equal_steps_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_settings(CONFIG, data={"buckets": 2})
    episodes = Trainer(config).state.episodes
    buckets = {step: episodes.bucket_at(step - 1) for step in range(1, 21)}
    with_fault = [step for step in buckets if step >= BEGINS and buckets[step] == 1]
    equal = [max(step for step in buckets if step < BEGINS and buckets[step] == bucket) for bucket in (1, 0)]
    later = max(step for step in buckets if with_fault[0] < step < with_fault[2] and buckets[step] == 0)
    departure = Departure(PipelineStage.GRADIENT, "loss", 1.0, 0.0, step=with_fault[2], bucket=1)
    compared = [ComparedStep(step, buckets[step]) for step in (*equal, later)]
    compared.append(ComparedStep(with_fault[2], 1, (departure,), 1))
    double_loss(monkeypatch, lambda step: step >= BEGINS and buckets[step] == 1)
    found = add_steps_before_departure(ReferenceFacts(tuple(compared)), tmp_path, config, 100)
    assert found.first is not None
    assert found.first.step == with_fault[0]
    assert [step.step for step in found.steps] == sorted({step.step for step in found.steps})


def test_a_run_that_cannot_be_repeated_keeps_what_it_recorded(run: Path) -> None:
    recorded = check_course(run)
    assert repeat(run, most=2) == recorded
    assert repeat(run, with_settings(CONFIG, train={"decoder": Path("nowhere")})) == recorded
    healthy = ReferenceFacts(recorded.steps[:3])
    assert add_steps_before_departure(healthy, run, CONFIG, 100) == healthy

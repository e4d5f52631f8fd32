"""Which steps are compared, what is kept of them, and that training does not change."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from etrm.checkpoints.format import Checkpoint
from etrm.checkpoints.run_folder import RunFolder
from etrm.config import Config, load, with_settings
from etrm.errors import RunFolderError
from etrm.reference.departure import Departure, PipelineStage
from etrm.training.monitoring.step_check import (
    REFERENCE,
    ComparedStep,
    StepCheck,
    planned_steps,
    read_compared,
)
from etrm.training.train_state import TrainState
from etrm.training.trainer import Trainer, train
from tests.errors import raises_code


def config_of(**settings: object) -> Config:
    small = with_settings(
        load("smoke"), data={"max_tasks": 6, "max_side": 3}, train={"batch_size": 4, "threads": 1}
    )
    return with_settings(small, **settings)  # type: ignore[arg-type]


def one_bucket(step: int) -> int:
    return 0


def test_first_steps_phases_and_one_of_every_n_are_planned() -> None:
    config = config_of(train={"steps": 200, "warmup_steps": 20, "freeze_decoder_steps": 90})
    found = planned_steps(config, one_bucket)
    assert {1, 2, 3, 21, 22, 23, 91, 92, 93, 200} <= found
    assert all(any(first < step <= first + 50 for step in found) for first in range(0, 200, 50))
    assert found == planned_steps(config, one_bucket)
    assert max(found) == 200


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_bucket_is_sampled_as_often_as_others(seed: int) -> None:
    def bucket_of(step: int) -> int:
        return 2 if step % 10 == 3 else step % 2

    config = config_of(train={"steps": 1500, "seed": seed}, monitor={"reference_every": 50})
    planned = planned_steps(config, bucket_of)
    counts = Counter(bucket_of(step) for step in planned if 300 < step < 1500)
    assert counts.total() == 24  # windows of 50 steps; nothing else is planned there
    assert min(counts[bucket] for bucket in range(3)) >= 7


def test_the_steps_around_the_first_checkpoint_evaluation_and_probe_are_planned() -> None:
    config = config_of(
        train={"steps": 100, "checkpoint_every": 30}, evaluate={"every": 40}, monitor={"probe_every": 20}
    )
    assert {20, 21, 30, 31, 40, 41} <= planned_steps(config, one_bucket)


def test_weights_that_a_checkpoint_changes_are_an_update_between_two_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = TrainState.capture

    def capture_and_average(state: TrainState) -> Checkpoint:
        found = capture(state)
        state.model.load_state_dict(found.ema)
        return found

    monkeypatch.setattr(TrainState, "capture", capture_and_average)
    train(config_of(train={"steps": 9, "checkpoint_every": 7}), tmp_path / "run")
    departing = [step for step in read_compared(tmp_path / "run") if step.departures]
    assert [step.step for step in departing][:1] == [8]
    assert {found.stage for found in departing[0].departures} == {PipelineStage.UPDATE}


def test_a_change_that_is_announced_is_no_departure() -> None:
    trainer, check = Trainer(config_of(monitor={"enabled": False})), StepCheck(config_of())
    for announced in (True, False):
        with check.step(trainer):
            trainer.advance()
        with torch.no_grad():
            trainer.model.core.H_init.mul_(2)
        if announced:
            check.forget()
    with check.step(trainer):
        trainer.advance()
    assert [bool(step.departures) for step in check.compared] == [False, False, True]


def test_the_compared_steps_are_in_the_run_folder(tmp_path: Path) -> None:
    config = config_of(train={"steps": 6})
    train(config, tmp_path / "run")
    found = read_compared(tmp_path / "run")
    assert [step.step for step in found] == sorted(planned_steps(config, one_bucket))
    assert not any(step.departures or step.absent for step in found)


def test_a_departure_is_kept_with_its_place(tmp_path: Path) -> None:
    train(config_of(train={"steps": 3}, faults=("context-detached",)), tmp_path / "run")
    [first, *_] = read_compared(tmp_path / "run")
    assert first.departures[0].stage is PipelineStage.GRADIENT
    assert first.count >= len(first.departures)


def test_training_is_the_same_without_comparing(tmp_path: Path) -> None:
    weights = []
    for every in (2, None):
        trainer = Trainer(config_of(train={"steps": 4}, monitor={"reference_every": every}))
        trainer.run()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())
    assert trainer.check.compared == []


def test_a_comparison_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise IndexError("planted")

    monkeypatch.setattr("etrm.training.monitoring.step_check.compare_step", fail)
    assert train(config_of(train={"steps": 3}), tmp_path / "run")
    assert {step.absent for step in read_compared(tmp_path / "run")} == {"IndexError: planted"}


def test_a_resumed_run_has_the_same_file(tmp_path: Path) -> None:
    config = config_of(train={"steps": 6, "checkpoint_every": 2})
    train(config, tmp_path / "whole")
    half = Trainer(config, folder := RunFolder(tmp_path / "half", config, resume=False))
    half.run(lambda trainer, metrics: trainer.stop() if trainer.step == 3 else None)
    folder.close()
    train(config, tmp_path / "half", resume=True)
    assert (tmp_path / "half" / REFERENCE).read_text() == (tmp_path / "whole" / REFERENCE).read_text()


def test_of_many_departures_those_of_the_encoder_are_kept_too(tmp_path: Path) -> None:
    """Without any update every weight and every moment departs, and those of the core are the first."""
    train(
        config_of(train={"steps": 1, "warmup_steps": 0}, faults=("freeze-skips-optimizer",)), tmp_path / "run"
    )
    [step] = read_compared(tmp_path / "run")
    assert step.count > len(step.departures)
    assert {one.tensor.partition(".")[0] for one in step.departures} == {"core", "encoder"}


def test_numbers_that_are_not_finite_are_valid_json(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="not finite"):
        train(config_of(train={"steps": 2}, faults=("context-nan",)), tmp_path / "run")
    [line] = (tmp_path / "run" / REFERENCE).read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["departures"][0]["stage"] == "context"


def test_a_line_that_a_killed_process_left_unfinished_is_ignored(tmp_path: Path) -> None:
    train(config_of(train={"steps": 3}), tmp_path / "run")
    whole = read_compared(tmp_path / "run")
    with (tmp_path / "run" / REFERENCE).open("a") as file:
        file.write('{"absent": "", "buck')
    assert read_compared(tmp_path / "run") == whole


def test_an_infinite_difference_is_read_back(tmp_path: Path) -> None:
    step = ComparedStep(1, 0, (Departure(PipelineStage.CORE, "z_H", math.inf, 0.1),), 1)
    (tmp_path / REFERENCE).write_text(f"{step.to_json()}\n")
    assert read_compared(tmp_path) == [step]


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / REFERENCE).write_text('{"step": 1}\n')
    with raises_code(RunFolderError, "run.damaged-reference"):
        read_compared(tmp_path)


@pytest.mark.filterwarnings("ignore:train.precision bfloat16")
@pytest.mark.parametrize("fault", ["", pytest.param("context-detached", marks=pytest.mark.slow)])
def test_rounding_of_gradients_that_cancel_is_no_departure_and_hides_none(fault: str) -> None:
    """At step 20 of this run the rows' gradients cancel, and rounding is most of what is left."""
    config = with_settings(
        load("smoke"),
        model={"num_heads": 4},
        train={"precision": "bfloat16", "lr_min_ratio": 0.1, "seed": 2012, "threads": 1},
        faults=(fault,) if fault else (),
    )
    trainer, check = Trainer(with_settings(config, monitor={"enabled": False})), StepCheck(config)
    while trainer.step < 19:
        trainer.advance()
    with check.step(trainer):
        trainer.advance()
    departed = {departure.stage for departure in check.compared[0].departures}
    assert check.compared[0].absent == ""
    assert departed == ({PipelineStage.GRADIENT} if fault else set())


@pytest.mark.parametrize("kind", ["standard", "hybrid_variational", "trm_style"])
def test_padding_to_few_shapes_is_no_departure(kind: str) -> None:
    """Lengths and numbers of pairs are rounded, also of parts of a batch; rows begin and continue."""
    trainer = Trainer(
        config_of(
            data={"max_side": 4, "augmentations": "fresh"},
            model={"encoder": {"kind": kind}, "halt": {"max_steps": 2}},
            train={"steps": 4, "accumulate": 2, "static_shapes": True},
            monitor={"reference_every": 1},
        )
    )
    trainer.run()
    assert len(trainer.check.compared) == 4
    assert not any(step.departures or step.absent for step in trainer.check.compared)

"""Compare one recorded training step with the reference, stage by stage.

Each stage is computed from the inputs that the real step gave it, so that a fault in one stage does not make later
ones differ. The first stage that differs is the place of the fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from etrm.config import Config
from etrm.reference.data.loader import ReferenceLoader
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.recorded import RecordedStep
from etrm.reference.training.stages.after_model import (
    compare_average,
    compare_clipping,
    compare_halting,
    compare_kept_carry,
    compare_labels,
    compare_logged,
    compare_loss,
    compare_update,
)
from etrm.reference.training.stages.before_model import (
    compare_given_carry,
    compare_samples,
    compare_schedule,
    compare_weights_in_use,
)
from etrm.reference.training.stages.checked_step import CheckedStep, covers_core
from etrm.reference.training.stages.model_pass import ModelPass, compare_precision
from etrm.reference.training.stages.random_numbers import compare_least_steps, compare_noise


def compare_step(step: RecordedStep, config: Config, rows: ReferenceLoader | None = None) -> list[Departure]:
    """The departures of a step from the reference, in the order of the stages.

    Args:
        step: the recorded step, which has ended.
        config: the settings as they were requested, without faults.
        rows: the reference of the loader; without it samples are not compared.
    """
    departures = [
        replace(departure, step=step.before.step + 1, bucket=step.bucket)
        for departure in _compare_stages(CheckedStep(step, config, rows))
    ]
    order = list(PipelineStage)
    return sorted(departures, key=lambda departure: order.index(departure.stage))


def _compare_stages(checked: CheckedStep) -> Iterator[Departure]:
    yield from compare_schedule(checked)
    yield from compare_samples(checked)
    yield from compare_weights_in_use(checked)
    if covers_core(checked.config):
        yield from compare_given_carry(checked)
        yield from compare_precision(checked)
        yield from ModelPass(checked).departures()
    yield from compare_noise(checked)
    yield from compare_least_steps(checked)
    yield from compare_halting(checked)
    yield from compare_labels(checked)
    yield from compare_loss(checked)
    if checked.ended:
        yield from compare_clipping(checked)
        yield from compare_update(checked)
        yield from compare_average(checked)
        yield from compare_kept_carry(checked)
        yield from compare_logged(checked)

"""Compares the learning rates of all steps of a run, because the first steps show only the warm-up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from etrm.config import TrainConfig
from etrm.reference.departure import Departure
from etrm.reference.training.schedule import compare_rates
from etrm.training.optim import schedule, set_rates
from etrm.training.trainer import Trainer

MOST = 1000
"""Steps of a longer run, which are spread evenly: a schedule changes over many steps."""


def check_schedule(trainer: Trainer, requested: TrainConfig) -> list[Departure]:
    """Compare the learning rates of a whole run with the reference.

    Args:
        trainer: the run, whose rates are the same afterwards.
        requested: the settings without faults.
    """
    return compare_rates(_list_rates(trainer, requested.steps), requested)


def _list_rates(trainer: Trainer, count: int) -> Iterator[tuple[int, Mapping[str, float]]]:
    """The rate of a parameter of each group at the steps of a run, as its own functions have them."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    groups = {
        names[id(group["params"][0])]: group
        for optimizer in trainer.optimizers
        for group in optimizer.param_groups
        if group["params"] and id(group["params"][0]) in names
    }
    kept = {name: group["lr"] for name, group in groups.items()}
    try:
        for step in np.unique(np.linspace(0, count - 1, min(count, MOST)).astype(int)).tolist():
            set_rates(trainer.optimizers, schedule(step, trainer.config.train))
            yield step, {name: group["lr"] for name, group in groups.items()}
    finally:
        for name, group in groups.items():
            group["lr"] = kept[name]

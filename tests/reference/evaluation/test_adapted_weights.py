"""Adaptation by the reference: the losses and weights of the package, and answers that are never read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from etrm.config import AdaptedPart, with_settings
from etrm.data import Pair
from etrm.reference.evaluation.adapted_weights import OFFSET, AdaptedWeights, adapt_weights, list_trained
from etrm.training.scoring.adaptation import adapt
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.trainer import Trainer
from tests.reference.training.test_step import config_of

CONFIG = config_of(evaluate={"adapt": {"steps": 3, "batch_size": 2, "rate": 1e-3}})


@pytest.mark.parametrize("part", ["weights", "encoder", "context"])
def test_losses_and_weights_are_those_of_the_package(part: AdaptedPart) -> None:
    trainer, task = Trainer(CONFIG), next(iter(load_held_out_tasks(CONFIG)))
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    names = list_trained([name for name, _ in trainer.model.named_parameters()], part)
    start = {name: weights[name] for name in names}
    if part == "context":
        start = {OFFSET: torch.zeros(trainer.model.context_shape)}
    wanted = adapt_weights(weights, start, task, CONFIG)
    with adapt(trainer.model, task, CONFIG, part) as found:
        moved = {name: value.clone() for name, value in found.model.state_dict().items()}
    assert found.losses == pytest.approx(wanted.losses, rel=1e-4)
    for name in names if part != "context" else ():
        assert (moved[name] - wanted.weights[name]).norm() < 0.1 * (weights[name] - moved[name]).norm() + 1e-5
    assert part != "context" or float(wanted.weights[OFFSET].abs().max()) > 1e-3


def test_the_answers_of_a_task_are_not_read() -> None:
    trainer, task = Trainer(CONFIG), next(iter(load_held_out_tasks(CONFIG)))
    weights = dict(trainer.model.state_dict())
    start = {name: weights[name] for name, _ in trainer.model.named_parameters()}
    hidden = replace(task, tests=tuple(Pair(pair.input, None) for pair in task.tests))
    found: list[AdaptedWeights] = [adapt_weights(weights, start, one, CONFIG) for one in (task, hidden)]
    assert found[0].losses == found[1].losses


def test_no_rate_changes_nothing() -> None:
    trainer, task = Trainer(CONFIG), next(iter(load_held_out_tasks(CONFIG)))
    weights = dict(trainer.model.state_dict())
    start = {name: weights[name] for name, _ in trainer.model.named_parameters()}
    still = with_settings(CONFIG, evaluate={"adapt": {"rate": 1e-12}})
    found = adapt_weights(weights, start, task, still).weights
    assert all(torch.allclose(found[name], start[name], atol=1e-9) for name in start)

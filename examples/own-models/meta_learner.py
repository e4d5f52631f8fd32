"""MAML with the package `higher` (Grefenstette et al. 2019) learns sinusoids: an adapter, and faults for it.

A row is a task, as in Finn et al. 2017: a sinusoid, five points to adapt to, five to answer. The adapted weights are
the context, so that no module is named as one.

`etrm investigate examples/own-models/meta_learner.py:make_model`, and the same with a name in `FAULTS`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import higher
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from etrm.investigation.own_model import ModelUnderTest

POINTS, ROWS, INNER_RATE, INNER_STEPS = 5, 8, 0.02, 2


def sample(id: int) -> dict[str, Tensor]:
    """A task: a sinusoid, points to adapt to, and points to answer."""
    generator = torch.Generator().manual_seed(int(id))
    amplitude, phase = 0.5 + 2 * torch.rand(1, generator=generator), 3 * torch.rand(1, generator=generator)
    x = 10 * torch.rand(2 * POINTS, 1, generator=generator) - 5
    (shown, query), (values, answers) = x.split(POINTS), (amplitude * torch.sin(x - phase)).split(POINTS)
    return {"shown": shown, "values": values, "query": query, "answer": answers}


def batch(index: int, first: int = 0) -> dict[str, Any]:
    ids = first + ROWS * index + torch.arange(ROWS)
    rows = [sample(id) for id in ids.tolist()]
    return {"id": ids} | {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def predict(model: nn.Module, batch: dict[str, Any], to: str = "shown values", **options: bool) -> Tensor:
    """The answers of each task, by weights that are adapted to its points."""
    inner = torch.optim.SGD(model.parameters(), INNER_RATE)
    options = {"copy_initial_weights": False} | options
    answers = []
    for *points, query in zip(*(batch[key] for key in to.split()), batch["query"], strict=True):
        with higher.innerloop_ctx(model, inner, **options) as (adapted, optimizer):
            for _ in range(INNER_STEPS):
                optimizer.step(mse_loss(adapted(points[0]), points[1]))
            answers.append(adapted(query))
    return torch.stack(answers)


def sample_losses(model: nn.Module, batch: dict[str, Any], **options: bool) -> Tensor:
    return (predict(model, batch, **options) - batch["answer"]).square().flatten(1).mean(1)


def make_model(seed: int) -> ModelUnderTest:
    return ModelUnderTest(
        model=nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)),
        step=lambda model, batch: sample_losses(model, batch).mean(),
        batch=batch,
        held_out=lambda index: batch(index, 10**6),
        demonstrations=("shown", "values"),
        labels="answer",
        ids="id",
        sample=sample,
        sample_losses=sample_losses,
        predict=predict,
        evaluate=lambda predictions, answers: (predictions - answers).square().mean().item(),
        best_score=0.0,
        worst_score=None,
    )


def weights_copied(seed: int) -> ModelUnderTest:
    """The default of `higher`: the inner loop starts from a copy, which the gradient does not leave."""
    step = partial(sample_losses, copy_initial_weights=True)
    return replace(make_model(seed), step=lambda model, batch: step(model, batch).mean())


def points_of_other_tasks(seed: int) -> ModelUnderTest:
    """The loader pairs the questions of a task with the points of another one."""

    def mixed(index: int) -> dict[str, Any]:
        rows = batch(index)
        return rows | {key: rows[key].roll(1, 0) for key in ("shown", "values")}

    return replace(make_model(seed), batch=mixed)


def adapted_to_answers(seed: int) -> ModelUnderTest:
    """The evaluation adapts to the questions and their answers."""
    return replace(make_model(seed), predict=partial(predict, to="query answer"))


FAULTS = {"weights_copied": "H2", "points_of_other_tasks": "H5", "adapted_to_answers": "H6"}
"""The hypothesis that each fault must validate first."""

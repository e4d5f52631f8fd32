"""Training on the demonstrations of one task at test time, written plainly: one row at a time, without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etrm.config import NO_CURRICULUM, NO_STREAM, Config, is_rules, with_settings
from etrm.data.sources import TaskSet
from etrm.data.task import Pair, Task
from etrm.reference.data.canvas import CELLS
from etrm.reference.data.loaded_rows import LoadedRow
from etrm.reference.data.loader import ReferenceLoader, ReferenceRow
from etrm.reference.evaluation.answers import encode_row, mask_row
from etrm.reference.model.context import start_state
from etrm.reference.model.network import Weights, core_step, part
from etrm.reference.training.objective import row_losses
from etrm.reference.training.optimisation import clipped, update

BETAS, WEIGHT_DECAY = (0.9, 0.95), 0.0
"""Settings of AdamW."""
OFFSET = "offset"
"""The name of what is added to every context, where only that is trained."""


@dataclass(frozen=True)
class AdaptedWeights:
    """What was trained.

    Attributes:
        losses: the loss of each step in nats per token, before its update.
        weights: the trained tensors, or the ``offset``, after the last update.
    """

    losses: tuple[float, ...]
    weights: dict[str, Tensor]


def adapt_weights(weights: Weights, trained: Weights, task: Task, config: Config) -> AdaptedWeights:
    """Train some weights on a task whose answers are hidden.

    Args:
        weights: the tensors of the model, in float32.
        trained: those of them that are trained; or the offset (P, D), zero.
        task: the task, with two different demonstrations at least.
        config: the settings; ``evaluate.adapt`` is the budget.
    """
    budget = config.evaluate.adapt
    fitting = with_settings(
        config,
        train={
            "optimizer": "adamw",
            "beta1": BETAS[0],
            "beta2": BETAS[1],
            "weight_decay": WEIGHT_DECAY,
            "clip_norm": 1.0,
            "lr": budget.rate,
        },
    ).train
    rows = _list_rows(task, config)
    found = {name: value.detach().double() for name, value in trained.items()}
    means: dict[str, Tensor | None] = dict.fromkeys(found)
    squares: dict[str, Tensor | None] = dict.fromkeys(found)
    losses = []
    for count in range(1, budget.steps + 1):
        leaves = {name: value.float().requires_grad_() for name, value in found.items()}
        losses.append(
            sum(_backward({**weights, **leaves}, config, next(rows)) for _ in range(budget.batch_size))
            / budget.batch_size
        )
        gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
        for name, gradient in clipped(gradients, fitting).items():
            moved = update(
                found[name],
                gradient.double(),
                means[name],
                squares[name],
                count,
                budget.rate,
                fitting,
            )
            found[name], means[name], squares[name] = moved.weight, moved.mean, moved.square
    return AdaptedWeights(tuple(losses), {name: value.float() for name, value in found.items()})


def _list_rows(task: Task, config: Config) -> Iterator[ReferenceRow]:
    """The rows of the stream of one task: each demonstration left out, under fresh augmentations."""
    hidden = replace(task, tests=tuple(Pair(pair.input, None) for pair in task.tests))
    source, subset = config.evaluate.source, config.evaluate.subset
    changes: dict[str, Any] = {
        "source": source,
        "queries": "leave_one_out",
        "augmentations": 1 if is_rules(source) else "fresh",  # else a rule becomes another one
        "buckets": 1,
        "store": None,
        **NO_STREAM,
        **NO_CURRICULUM,
    }
    data = with_settings(config, data=changes).data
    loader = ReferenceLoader(TaskSet((hidden,), source, subset), data, True, config.train.seed)
    index = 0
    while True:
        yield loader.row(0, index)
        index += 1


def _backward(weights: Weights, config: Config, row: ReferenceRow) -> float:
    """Add the gradient of a row's share of the mean loss to the leaves; return its own cross entropy."""
    model, steps = config.model, config.model.halt.max_steps
    core, device = part(weights, "core"), weights["core.H_init"].device
    inputs, positions, labels = (
        torch.as_tensor(np.array(x), dtype=torch.long, device=device)[None]
        for x in (row.tokens, row.positions, row.labels)
    )
    loaded = LoadedRow(row.tokens, row.positions, row.labels, row.demos, 0, 0)
    length = model.context_tokens + inputs.shape[1]
    z_H, z_L = (weights[f"core.{name}_init"].expand(1, length, -1) for name in "HL")
    state, cached, loss = start_state(part(weights, "encoder"), model, 1), None, 0.0
    for _ in range(steps):
        found = encode_row(weights, model, loaded, state)
        state, kl = found.state, found.kl if cached is None else None
        context = found.context if cached is None else cached
        if model.variant == "etrm_cached":  # which keeps the first context, without its graph
            cached = context.detach()
        if OFFSET in weights:
            context = context + weights[OFFSET]
        result = core_step(
            core, model, z_H, z_L, context, inputs, positions, mask_row(row.tokens, CELLS, device)
        )
        z_H, z_L = result.z_H.detach(), result.z_L.detach()
        losses = row_losses(result.logits, result.q[:, 0], labels, kl, None, config.train)
        total = losses.total.sum()
        if total.requires_grad:  # nothing that is trained reaches the later steps of a cached context
            torch.autograd.backward(total / (config.evaluate.adapt.batch_size * steps))
        loss += float(losses.cross_entropy.detach()) / steps
    return loss


def list_trained(parameters: Sequence[str], adapted: str) -> list[str]:
    """The names of the parameters that are trained: all (``weights``), or those of the encoder (``encoder``)."""
    return [name for name in parameters if adapted == "weights" or name.startswith("encoder.")]

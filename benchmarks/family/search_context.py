"""Gradient search over the context at test time, with frozen weights."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.family.device_episodes import DrawnTasks
from benchmarks.family.learner import FamilyModel, is_solved, lay_out
from etrm.batch import IGNORE
from etrm.data.rules import DEMOS


def search_contexts(
    model: FamilyModel,
    tasks: DrawnTasks,
    start: str = "encoder",
    steps: int = 50,
    rate: float = 0.1,
    shuffled: bool = False,
) -> tuple[Tensor, Tensor]:
    """Fit the context of each task to its demonstrations by Adam (betas .9, .9), each demonstration as a query.

    Args:
        model: the model; its weights are not changed.
        tasks: tasks of one side.
        start: ``encoder``, or ``noise`` of the size of the encoder's contexts.
        steps, rate: steps and rate of Adam.
        shuffled: whether the demonstrations are those of the next task: the control.

    Returns:
        (n,) bool, whether the query is solved, and (n,) bool, whether all demonstrations are.
    """
    laid = lay_out(tasks)
    queries = [
        lay_out(replace(tasks, inputs=_turned(tasks.inputs, i), outputs=_turned(tasks.outputs, i)))
        for i in range(DEMOS)
    ]
    inputs, labels = (torch.cat([getattr(q, name) for q in queries]) for name in ("inputs", "labels"))
    if shuffled:
        inputs, labels = (x.view(DEMOS, len(tasks), -1).roll(1, 1).flatten(0, 1) for x in (inputs, labels))
    with torch.no_grad():
        found = model.encode(laid.pairs, laid.pair_positions).float()
        if start == "noise":
            found = torch.randn_like(found) * found.std()
    found = found.clone().requires_grad_()
    optimizer = torch.optim.Adam([found], lr=rate, betas=(0.9, 0.9))
    dtype = model.encoder.set_encoder.query_tokens.dtype
    for _ in range(steps):
        logits = model.answer(found.to(dtype).repeat(DEMOS, 1, 1), inputs, laid.positions).float()
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")
        (found.grad,) = torch.autograd.grad(loss / inputs.shape[1], [found])
        optimizer.step()
    with torch.no_grad():
        context = found.to(dtype)
        shown = is_solved(model.answer(context.repeat(DEMOS, 1, 1), inputs, laid.positions), labels)
        solved = is_solved(model.answer(context, laid.inputs, laid.positions), laid.labels)
    return solved, shown.view(DEMOS, -1).all(0)


def _turned(grids: Tensor, demo: int) -> Tensor:
    """Put a demonstration in the place of the query."""
    return torch.cat((grids[:, :DEMOS], grids[:, demo : demo + 1]), 1)

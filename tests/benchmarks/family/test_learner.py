from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.family.__main__ import ARMS
from benchmarks.family.device_episodes import NAMES, DrawnTasks
from benchmarks.family.learner import CLASSES, FamilyModel, FamilyStep, lay_out
from etrm.batch import Demos
from etrm.config import load, with_settings
from etrm.data import Episodes, TaskSet, collate
from etrm.data.rules import DEMOS, draw_rule_tasks
from tests.benchmarks.family.test_device_episodes import drawn


def test_the_layout_is_that_of_the_product() -> None:
    (task,) = draw_rule_tasks("rules:dihedral", "training", 3, 1)
    data = with_settings(
        load("rules"), data={"source": "rules:dihedral", "max_tasks": 1, "stream": None}
    ).data
    batch = collate([Episodes(TaskSet((task,), "rules", "training"), data, "etrm", 0).sample(0, 0)])
    pairs = (*task.demos, *task.tests)
    inputs, outputs = (
        torch.stack([torch.from_numpy(getattr(pair, name).astype("int64")) for pair in pairs])[None]
        for name in ("input", "output")
    )
    nothing = torch.zeros(1, dtype=torch.long)
    laid = lay_out(DrawnTasks(inputs, outputs, nothing, torch.zeros(1, len(CLASSES), dtype=torch.long)))
    assert torch.equal(laid.pairs, batch.demos.tokens)
    assert torch.equal(laid.pair_positions.expand_as(laid.pairs), batch.demos.positions)
    assert torch.equal(laid.inputs, batch.inputs)
    assert torch.equal(laid.labels, batch.labels)
    assert torch.equal(laid.positions, batch.positions)


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": True, "absolute": True, "cells": True},
        pytest.param({"tokens": False, "labelled": True}, marks=pytest.mark.slow),
    ],
)
def test_a_step_lowers_the_loss_of_its_own_tasks(changes: dict[str, bool]) -> None:
    torch.manual_seed(0)
    model = FamilyModel(replace(ARMS["tiny"], **{"labelled": False} | changes))
    step = FamilyStep(model, 4, (3, 4))
    for side in (3, 4):
        step.load(side, drawn(side).rows(slice(4)))
    step.capture()
    losses = []
    for _ in range(40):
        step(3e-3)
        losses.append(step.read()[0])
    assert losses[-1] < 0.7 * losses[0]
    assert not any(
        torch.equal(a, b) for a, b in zip(step.masters, step.averages, strict=True) if a.grad is not None
    )


def test_cells_are_encoded_as_in_the_product() -> None:
    torch.manual_seed(0)
    model = FamilyModel(replace(ARMS["tiny"], cells=True, tokens=True)).eval()
    laid = lay_out(drawn(4).rows(slice(3)))
    count = len(laid.pairs)
    owner = torch.arange(count) // DEMOS
    demos = Demos(laid.pairs, laid.pair_positions.expand(count, -1), None, owner, torch.arange(3))
    exists = torch.ones_like(laid.pairs, dtype=torch.bool)
    expected = model.encoder(replace(demos, valid=exists)).context
    found = model.encode(laid.pairs, laid.pair_positions)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_update_is_that_of_adamw() -> None:
    torch.manual_seed(0)
    step = FamilyStep(FamilyModel(ARMS["tiny"]), 1, (3,))
    ours = [p.clone() for p in step.masters]
    theirs = [p.clone().requires_grad_() for p in step.masters]
    adam = torch.optim.AdamW(theirs, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    for number in range(3):
        torch.manual_seed(number)
        gradients = [torch.randn_like(p) * 10**number for p in ours]
        step.rate.fill_(0.01)
        step._update([g.clone() for g in gradients])
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = g
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        adam.step()
    for a, b in zip(step.masters, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(step.weights, step.masters, strict=True))


def test_rules_are_labelled() -> None:
    tasks = drawn(4, 4000)
    assert all(int(tasks.rules[:, i].max()) < size for i, size in enumerate(CLASSES))
    mapped = torch.tensor(["colours" in name for name in NAMES])[tasks.kinds]
    moved = torch.tensor(["dihedral" in name for name in NAMES])[tasks.kinds]
    assert torch.equal(tasks.rules[:, 0] > 0, moved)
    own = torch.arange(1, 10)
    becomes = tasks.rules[:, 3:]
    assert ((becomes != own) | (becomes == 0))[mapped].all()
    assert ((becomes == own) | (becomes == 0))[~mapped].all()

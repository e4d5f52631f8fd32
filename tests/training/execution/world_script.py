"""Run in one process or several: trains scenarios and saves what came out."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from etrm.config import load
from etrm.data import Episodes, Sample
from etrm.training.execution import distributed
from etrm.training.execution.distributed import World, join_processes
from etrm.training.trainer import Trainer


def outcome(world: World, settings: tuple[str, ...], steps: int) -> dict[str, Any]:
    """Metrics, gradients as the optimiser found them, weights, and which samples were drawn here."""
    trainer = Trainer(load("smoke", overrides=settings), world=world)
    draw, update = trainer.recipe.draw, trainer.recipe.update
    drawn: list[tuple[int, int]] = []
    gradients: list[dict[str, torch.Tensor]] = []

    def noted_draw(episodes: Episodes, bucket: int, index: int) -> Sample:
        drawn.append((bucket, index))
        return draw(episodes, bucket, index)

    def noted_update(optimizers: Any, frozen: str | None) -> None:
        gradients.append(
            {
                name: p.grad.to_dense().clone()
                for name, p in trainer.model.named_parameters()
                if p.grad is not None
            }
        )
        update(optimizers, frozen)

    for slots in trainer.slots.values():
        slots.draw = noted_draw
    trainer.recipe = replace(trainer.recipe, update=noted_update)
    metrics = [trainer.train_step() for _ in range(steps)]
    return {
        "metrics": metrics,
        "gradients": gradients,
        "weights": {name: value.clone() for name, value in trainer.model.state_dict().items()},
        "average": trainer.ema.average(),
        "drawn": drawn,
        "indices": {bucket: list(slots.indices) for bucket, slots in trainer.slots.items()},
        "findings": [str(finding) for finding in trainer.observer.findings()],
    }


Scenarios = dict[str, tuple[tuple[str, ...], int]]
"""Settings and a number of steps by name."""


def train_as(rank: int, size: int, port: int, scenarios: Scenarios, out: Path) -> None:
    """Train them as one of several processes, which meet at a port."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    train_all(scenarios, out)


def wait_as(rank: int, size: int, port: int, patience: float) -> None:
    """Wait for the leader, as one of several processes, for longer than a silent process is waited for."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.PATIENCE = timedelta(seconds=patience)
    with join_processes("cpu") as world:
        if world.leader:
            time.sleep(1.5 * patience)
        world.wait_for_all()


def train_all(scenarios: Scenarios, out: Path) -> None:
    """Train them as the process that this one is, and write ``{size}-{rank}.pt``."""
    with join_processes("cpu") as world:
        found = {name: outcome(world, settings, steps) for name, (settings, steps) in scenarios.items()}
        torch.save(found, out / f"{world.size}-{world.rank}.pt")

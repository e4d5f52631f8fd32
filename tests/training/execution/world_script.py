"""Run as a program, in one process or several: trains the scenarios of a JSON file and saves what came out.

python world_script.py SCENARIOS OUT    where SCENARIOS holds {name: [overrides, steps]}
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from etrm.config import load
from etrm.data import Episodes, Sample
from etrm.training.execution.distributed import World, join_processes
from etrm.training.trainer import Trainer


def outcome(world: World, settings: list[str], steps: int) -> dict[str, Any]:
    """Metrics, gradients as the optimiser found them, weights, and which samples were drawn here."""
    trainer = Trainer(load("smoke", overrides=tuple(settings)), world=world)
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


def main() -> None:
    scenarios, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    torch.set_num_threads(1)
    with join_processes("cpu") as world:
        found = {name: outcome(world, settings, steps) for name, (settings, steps) in scenarios.items()}
        torch.save(found, out / f"{world.size}-{world.rank}.pt")


if __name__ == "__main__":
    main()

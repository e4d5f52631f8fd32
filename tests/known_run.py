"""A run of the symbolic solver whose answers are known without it: four tasks, two of which a flip explains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from etrm.config import load, with_settings
from etrm.training.trainer import train

FLIP = "where true paint x.flip_rows"
"""The formula of the tasks `flip` and `nearly`, whose query has another cell than the flip."""


def _pair(grid: np.ndarray[Any, Any], output: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"input": grid.tolist(), "output": output.tolist()}


def make_task(kind: str, seed: int) -> dict[str, Any]:
    """A task that a flip solves (flip), or all but one cell of it (nearly), a copy (copy), or nothing (noise)."""
    rng = np.random.default_rng(seed)
    pairs = []
    for number in range(4):
        grid = rng.integers(1, 10, (3, 4))
        output = {"copy": grid, "noise": rng.integers(1, 10, (3, 4))}.get(kind, np.flipud(grid)).copy()
        if kind == "nearly" and number == 3:
            output[0, 0] = output[0, 0] % 9 + 1
        pairs.append(_pair(grid, output))
    return {"train": pairs[:3], "test": pairs[3:]}


def train_known_run(folder: Path) -> Path:
    """Train a step on two tasks, with four held out, and return the run folder."""
    kinds = {"training": ("flip", "noise"), "evaluation": ("copy", "flip", "nearly", "noise")}
    for subset, names in kinds.items():
        (folder / "tasks" / subset).mkdir(parents=True)
        for name in names:
            task = make_task(name, len(name) + 100 * (subset == "training"))
            name = name if subset == "evaluation" else f"trained-{name}"
            (folder / "tasks" / subset / f"{name}.json").write_text(json.dumps(task))
    source = {"source": str(folder / "tasks")}
    config = with_settings(
        load("symbolic"),
        data=source,
        model={"symbolic": {"families": ("original",), "guards": 16}},
        train={"steps": 1, "warmup_steps": 0, "batch_size": 2, "lr": 1e-6},
        evaluate=source,
    )
    assert train(config, folder / "known")
    return folder / "known"

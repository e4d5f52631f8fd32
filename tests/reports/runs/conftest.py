"""Run folders written by hand, as the trainer would, and a real one."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etrm.config import load, with_settings
from etrm.training.trainer import train

Write = Callable[..., Path]


def lines(records: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def metrics(step: int) -> dict[str, Any]:
    """A step's numbers; the accuracy rises by .01 a step, the loss falls."""
    return {"step": step, "rows": 8, "accuracy_all": step / 100, "exact_all": 0.0, "loss": 2 - step / 100,
            "steps_at_halt": None if step % 4 else 4.0, "encoder.coverage": 0.5, "core.coverage": 1.0,
            "decoder_frozen": False, "probe.share": 0.2}  # fmt: skip


@pytest.fixture
def step_lines() -> Callable[..., str]:
    """Lines of metrics.jsonl from one step to another, both included, as :func:`write_run` has them."""
    return lambda first, last: lines([metrics(step) for step in range(first, last + 1)])


@pytest.fixture
def write_run(tmp_path: Path) -> Write:
    """A run folder of so many logged steps, with a checkpoint at some of them."""

    def write(
        name: str = "run",
        *,
        logged: int = 30,
        checkpoints: Sequence[int] = (0,),
        record: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        config = with_settings(with_settings(load("smoke"), train={"steps": 40}), **settings)
        (folder / "config.json").write_text(config.to_json())
        steps = range(1, logged + 1)
        (folder / "metrics.jsonl").write_text(lines([metrics(step) for step in steps]))
        (folder / "timing.jsonl").write_text(lines([{"step": step, "seconds": 0.5} for step in steps]))
        (folder / "run.json").write_text(json.dumps({"host": platform.node(), **(record or {})}))
        for step in checkpoints:
            (folder / "checkpoints" / f"step_{step:08d}").mkdir(parents=True)
        return folder

    return write


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of three steps on six invented tasks of up to 4x4, one of whose answers cannot be in the region."""
    root = tmp_path_factory.mktemp("trained")
    for subset, first in (("training", 0), ("evaluation", 100)):
        (root / "tasks" / subset).mkdir(parents=True)
        for seed in range(first, first + 4):
            (root / "tasks" / subset / f"task{seed}.json").write_text(json.dumps(_task(seed)))
    config = with_settings(
        load("smoke"),
        data={"source": str(root / "tasks"), "max_side": 12},
        evaluate={"source": str(root / "tasks"), "max_tasks": None},
        train={"batch_size": 4, "threads": 1, "steps": 3},
        monitor={"enabled": False},
    )
    assert train(config, root / "run")
    return root / "run"


def _task(seed: int) -> dict[str, list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)

    def pair(output_side: int = 0) -> dict[str, Any]:
        grid = rng.integers(0, 10, rng.integers(1, 5, size=2))
        output = np.full((output_side, output_side), 3) if output_side else np.flipud(grid)
        return {"input": grid.tolist(), "output": output.tolist()}

    tests = [pair(), pair(output_side=12 if seed == 101 else 0)]  # no region of such demos holds 12x12
    return {"train": [pair() for _ in range(3)], "test": tests}

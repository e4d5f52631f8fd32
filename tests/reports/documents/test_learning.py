"""The documents' numbers about held-out rules, from run folders written by hand and from a tiny run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from etrm.config import load, with_settings
from etrm.data import Pair, Task, TaskSet
from etrm.training.trainer import train
from reports.documents.learning import guess_known_colours, held_out


def task(name: str, query: list[int]) -> Task:
    grid = np.array([query], np.uint8)
    return Task(name, (Pair(grid, grid + 1),), (Pair(grid, grid + 1),))


def test_guessing_is_the_share_of_maps_that_agree_on_the_query() -> None:
    tasks = (
        task("000000-colours-12.23.34", [1, 2, 3]),  # 1 of 6 maps
        task("000001-colours-12.23.34", [1, 0, 1]),  # 2 of 6
        task("000002-colours-12.23", [0, 2, 2]),  # 1 of 2
    )
    found = guess_known_colours(TaskSet(tasks, "rules:colours", "evaluation"))
    assert found == pytest.approx((1 / 6 + 1 / 3 + 1 / 2) / 3)


def test_nothing_is_guessed_of_rules_with_other_parts() -> None:
    tasks = (task("000000-shift-d.+colours-12.23", [1, 2]),)
    assert guess_known_colours(TaskSet(tasks, "rules", "evaluation")) is None


def test_the_table_has_the_baselines_and_the_last_score_of_each_run(tmp_path: Path) -> None:
    config = with_settings(
        load("rules"),
        data={"stream": 32},
        model={"hidden_size": 16, "layers": 1, "encoder": {"layers": 1}},
        train={"steps": 4, "batch_size": 4, "warmup_steps": 0, "threads": 1},
        monitor={"enabled": False},
        evaluate={"max_tasks": 12, "every": 2},
    )
    assert train(config, tmp_path / "run")
    text, figure = held_out([tmp_path / "run"])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line]
    assert {"copy input", "guess the map of known colours"} <= {line[0] for line in lines}
    (run, split) = (line for line in lines if line[0] == "seed 0")
    assert run[2] == "12"
    assert run[6:8] == ["0.00 M", "not yet"]
    assert len([cell for cell in split[1:6] if cell.endswith("%")]) == 5  # 2 to 6 demonstrations
    assert figure.startswith(b"\x89PNG")

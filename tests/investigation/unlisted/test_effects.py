"""Effects of planted run folders."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.format import Checkpoint
from etrm.investigation.unlisted.effects import ChangeEffect, compare_runs
from etrm.investigation.unlisted.program import EVALUATION


def make_run(folder: Path, end: float, ema: float, loss: float = 1.0, **evaluation: Any) -> Path:
    """A run that moved four weights from 0 to ``end``, a way of twice that."""
    for step, (raw, averaged) in {0: (0.0, 0.0), 20: (end, ema)}.items():
        tensors = ({"w": torch.full((4,), value)} for value in (raw, averaged))
        checkpoints.save(folder / "checkpoints", Checkpoint(step, *tensors, {}, {}), keep=5)
    line = json.dumps({"step": 1, "loss": loss, "seconds": end})
    (folder / "metrics.jsonl").write_text(f"{line}\n", "utf-8")
    (folder / EVALUATION).write_text(json.dumps({"token_accuracy": 0.5, **evaluation}), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("changed", "expected", "alters"),
    [
        ({"end": 1.0, "ema": 1.0}, ChangeEffect(0.0, False, False), False),
        ({"end": 1.0, "ema": 1.5}, ChangeEffect(0.5, False, False), True),
        ({"end": 0.9, "ema": 1.0}, ChangeEffect(0.1, False, False), True),
        ({"end": 1.0 + 1e-6, "ema": 1.0}, ChangeEffect(1e-6, False, False), False),
        ({"end": 1.0, "ema": 1.0, "loss": 2.0}, ChangeEffect(0.0, False, True), False),
        ({"end": 1.0, "ema": 1.0, "token_accuracy": 0.6}, ChangeEffect(0.0, True, False), True),
        (
            {"end": 1.0, "ema": 1.0, "candidates": {"a": [["x", 1, 0.5]]}},
            ChangeEffect(0.0, True, False),
            True,
        ),
    ],
)
def test_weights_and_answers_alter_a_run_and_logged_numbers_do_not(
    tmp_path: Path, changed: dict[str, float], expected: ChangeEffect, alters: bool
) -> None:
    unchanged = make_run(tmp_path / "unchanged", 1.0, 1.0)
    found = compare_runs(unchanged, make_run(tmp_path / "changed", **changed))
    assert found.weights == pytest.approx(expected.weights, rel=0.1, abs=1e-9)
    assert (found.answers, found.logged) == (expected.answers, expected.logged)
    assert found.alters_training == alters


def test_a_run_whose_weights_are_not_finite_is_altered(tmp_path: Path) -> None:
    unchanged = make_run(tmp_path / "unchanged", 1.0, 1.0)
    found = compare_runs(unchanged, make_run(tmp_path / "changed", math.nan, 1.0))
    assert found.alters_training

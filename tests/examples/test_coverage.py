"""The picture of docs/coverage.md is of real runs: what its columns are taken from, and the same bytes each time."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

import diagnostics

_FILE = Path(diagnostics.__file__).parent.parent / "docs" / "examples" / "coverage.py"
_SPEC = importlib.util.spec_from_file_location("coverage_example", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
coverage = importlib.util.module_from_spec(_SPEC)
sys.modules["coverage_example"] = coverage  # dataclasses look their module up
_SPEC.loader.exec_module(coverage)
BATCH, RUNS, draw, run = coverage.BATCH, coverage.RUNS, coverage.draw, coverage.run


def test_the_runs_are_what_the_page_says_of_them() -> None:
    whole, cut = (run(live, steps=15) for live in RUNS.values())
    assert whole.coverage == [1.0] * 15
    assert cut.coverage == [1 / BATCH] * 15
    assert whole.losses[0] == cut.losses[0], "the same start and the same batches"
    assert whole.losses[-1] < whole.losses[0]
    assert cut.shown.modules["encoder"].waste == 1 - 1 / BATCH
    assert cut.shown.modules["encoder"].evenness == 1 / BATCH
    assert cut.shown.modules["core"].coverage == 1.0
    assert [call.gradient for call in cut.shown.modules["core"].calls] == [False, False, True, True]


def test_the_live_row_is_the_one_of_its_step() -> None:
    (call,) = run(1, steps=8).shown.modules["encoder"].calls
    assert call.row_gradients.nonzero().flatten().tolist() == [7]


def test_the_same_picture_each_time_and_random_numbers_as_before() -> None:
    state = torch.get_rng_state()
    first, second = (draw({name: run(live, steps=12) for name, live in RUNS.items()}) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    assert first.startswith(b"\x89PNG")

"""Run tables against the JSON lines that they are made of, bit for bit."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from etrm.checkpoints.run_table import read_metrics_table, read_table
from etrm.errors import RunFolderError

ROOT = Path(__file__).parents[2]


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


def test_values_are_those_of_the_file_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = [float(v) for v in rng.normal(size=200) * 10.0 ** rng.integers(-300, 300, size=200)]
    values += [-0.0, 5e-324, 0.1 + 0.2, 2.0**53]
    lines = [{"step": step, "loss": value} for step, value in enumerate(values, start=1)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = read_table(tmp_path)
    assert [bits(value) for value in table["loss"]] == [bits(value) for value in values]
    assert table.index.tolist() == list(range(1, len(values) + 1))
    assert table.index.name == "step"


def test_what_is_no_finite_number_is_nan_and_a_quantity_without_numbers_has_no_column() -> None:
    table = read_metrics_table(
        [
            {"step": 4, "rows": 8, "loss": None, "frozen": True, "never": None},
            {"step": 5, "rows": 9, "loss": math.inf, "frozen": False, "kl": 0.5},
            {"step": 7, "loss": 1.5},
        ]
    )
    assert table.columns.tolist() == ["rows", "kl", "loss"]
    assert set(table.dtypes.astype(str)) == {"float64"}
    assert table.index.tolist() == [4, 5, 7]
    expected = [[8, math.nan, math.nan], [9, 0.5, math.nan], [math.nan, math.nan, 1.5]]
    np.testing.assert_array_equal(table.to_numpy(), expected)


def test_a_run_without_steps_is_an_empty_table(tmp_path: Path) -> None:
    assert read_table(tmp_path).shape == (0, 0)


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n')
    with pytest.raises(RunFolderError):
        read_table(tmp_path)


def test_the_command_line_starts_without_pandas_and_lists_runs_without_torch() -> None:
    code = (
        "import sys, cli; print('pandas' in sys.modules, 'torch' in sys.modules);"
        "import reports.runs.listing, reports.runs.watch; print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.split() == ["False"] * 3

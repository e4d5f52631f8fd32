from __future__ import annotations

import subprocess

import pytest
import torch

from benchmarks.performance.section import Conditions
from benchmarks.performance.training import commits, earlier
from etrm.config import Config

CPU = torch.device("cpu")


def turn(milliseconds: float, **numbers: float) -> dict[str, float]:
    known = {"rows": 2, "steps": 4, "operations": 30.0, "graphs": 0, "gib": 0.5}
    return {"ms_per_step": milliseconds, "rows_per_second": 2e3 / milliseconds} | known | numbers


def test_rates_are_compared_within_a_turn_and_with_the_peak() -> None:
    found = {"wide": {"old": [turn(100), turn(400)], "new": [turn(50, gib=0.25), turn(100, gib=0.75)]}}
    section = commits.build_section(found, {"wide": 0.001}, peak=0.1, precision="float32")
    (table,) = section.tables
    base, new = (dict(zip(table.header, row, strict=True)) for row in table.rows)
    assert base["size"] == new["size"] == "wide, 2 rows"
    assert base["x earlier"] == "1 [1, 1]"
    assert new["x earlier"] == "3 [2.5, 3.5]"  # 2 and 4 times
    assert new["rows per second"] == "30 [25, 35]"
    assert new["% of peak"] == "15 [12.5, 17.5]"  # 1 GFLOP in 50 and 100 ms, of 100 GFLOP/s
    assert (new["operations"], new["GiB"], new["graphs"], new["turns"]) == ("30", "0.75", "0", "2 x 4")


def test_both_codes_train_both_sizes_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[tuple[int, bool]] = []

    def run_steps(config: Config, seconds: float, folder: object) -> dict[str, float]:
        order.append((config.model.hidden_size, folder == commits.ROOT))
        return turn(10)

    monkeypatch.setenv(earlier.FOLDER, "anywhere")
    monkeypatch.setattr(commits, "run_steps", run_steps)
    monkeypatch.setattr(commits, "count_tflop", lambda trainer: 0.1)
    monkeypatch.setattr(commits, "Trainer", lambda config: None)
    monkeypatch.setattr(commits, "measure_peaks", lambda device, side: {"float32": 0.1})
    section = commits.compare_commits(Conditions(CPU, 2))
    assert order == 2 * [(64, False), (64, True), (512, False), (512, True)]
    assert [row[1] for row in section.tables[0].rows] == 2 * [earlier.COMMIT, "this"]


def test_without_the_earlier_commit_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(128, ["git", "archive"])

    monkeypatch.delenv(earlier.FOLDER, raising=False)
    monkeypatch.setattr(earlier, "extract_commit", fails)
    section = commits.compare_commits(Conditions(CPU, 1))
    assert section.tables == ()
    assert "git archive" in section.paragraphs[0]
    assert earlier.FOLDER in section.paragraphs[0]

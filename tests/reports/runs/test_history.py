"""Curves, their smoothing and speeds against sums done by hand."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from etrm.checkpoints.run_table import read_table
from reports.runs.history import RECENT, WINDOW, History, smooth

Write = Callable[..., Path]


def test_smoothed_values_are_means_of_neighbours() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 9, 10, 99, 250, 400):
        values = rng.normal(size=n)
        window = min(WINDOW, max(1, n // 10))
        expected = [values[i : i + window].mean() for i in range(n - window + 1)]
        assert smooth(pd.Series(values)) == pytest.approx(expected)


def test_last_and_best_are_of_smoothed_values(write_run: Write) -> None:
    history = History(write_run(logged=30))
    history.update()
    assert history.last("accuracy_all") == pytest.approx((0.28 + 0.29 + 0.30) / 3)
    assert history.best("accuracy_all") == history.last("accuracy_all")
    assert history.best("loss") == history.last("loss") == pytest.approx(1.71)
    assert history.last("no such") is history.best("no such") is None


def test_steps_without_a_value_and_truth_values_are_no_points(write_run: Write) -> None:
    history = History(write_run(logged=9))
    history.update()
    assert history.curve("steps_at_halt").index.tolist() == [4, 8]
    assert "decoder_frozen" not in history.table
    assert "step" not in history.table


def test_numbers_that_are_not_finite_are_no_points(tmp_path: Path) -> None:
    lines = ['{"step": 1, "loss": NaN}', '{"step": 2, "loss": 0.5}', '{"step": 3, "loss": -Infinity}']
    (tmp_path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    history = History(tmp_path)
    history.update()
    assert (history.step, history.curve("loss").index.tolist()) == (3, [2])


def test_the_time_of_a_run_that_was_begun_anew_is_its_own(write_run: Write) -> None:
    folder = write_run(logged=20)
    history = History(folder)
    history.update()
    (folder / "timing.jsonl").write_text('{"step": 1, "seconds": 3.0}\n')
    history.update()
    assert history.wall_s == 3


def test_a_run_that_was_cut_back_and_went_on_shows_only_what_stands(
    write_run: Write, step_lines: Callable[..., str]
) -> None:
    folder = write_run(logged=20)
    history = History(folder)
    history.update()
    os.truncate(folder / "metrics.jsonl", len(step_lines(1, 10)))
    history.update()
    assert history.step == 10
    assert history.curve("loss").index.tolist() == list(range(1, 11))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(step_lines(11, 11))
    history.update()
    assert history.curve("loss").index.tolist() == list(range(1, 12))


def test_time_counts_every_process_and_speed_the_last_steps(write_run: Write) -> None:
    folder = write_run(logged=20)
    half = '{"step": 21, "sec'  # a process was killed while it wrote, and the next one appends
    again = [{"step": step, "seconds": 2.0} for step in range(11, 11 + RECENT + 1)]
    with (folder / "timing.jsonl").open("a") as file:
        file.write(half + "".join(json.dumps(one) + "\n" for one in again))
    history = History(folder)
    history.update()
    assert history.wall_s == pytest.approx(20 * 0.5 + RECENT * 2.0)
    assert history.steps_per_s == pytest.approx(0.5)
    assert history.samples_per_s == pytest.approx(4.0)


def test_an_empty_folder_has_no_numbers(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.update()
    assert (history.step, history.table.shape, history.wall_s) == (0, (0, 0), 0)
    assert history.steps_per_s is history.samples_per_s is None


def test_a_history_that_grows_is_the_table_of_the_whole_file(tmp_path: Path) -> None:
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 3, "loss": 0.1 + 0.2, "kl": 7}]
    history = History(tmp_path)
    for line in lines:
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        history.update()
    pd.testing.assert_frame_equal(history.table, read_table(tmp_path), check_exact=True)

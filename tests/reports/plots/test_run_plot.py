"""Curves of run folders."""

from __future__ import annotations

import json
from pathlib import Path

from etrm.config import load, with_settings
from etrm.errors import ConfigError, RunFolderError
from reports.plots.run_plot import plot_runs
from tests.errors import raises_code


def run(path: Path, seed: int) -> Path:
    path.mkdir()
    (path / "config.json").write_text(with_settings(load("smoke"), train={"seed": seed}).to_json())
    lines = [json.dumps({"step": i + 1, "loss": 2.0 / (i + 1), "held": None}) for i in range(30)]
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return path


def test_the_same_runs_give_the_same_png(tmp_path: Path) -> None:
    folders = [run(tmp_path / str(seed), seed) for seed in range(2)]
    images = []
    for name in ("a.png", "b.png"):
        plot_runs(folders, ["loss"], tmp_path / name, "Loss", ("gate", 0.5))
        images.append((tmp_path / name).read_bytes())
    assert images[0] == images[1]
    assert images[0].startswith(b"\x89PNG")


def test_a_quantity_that_was_not_logged_is_named_with_those_that_were(tmp_path: Path) -> None:
    with raises_code(RunFolderError, "plot.unknown-key", repr("los"), tmp_path / "r") as error:
        plot_runs([run(tmp_path / "r", 0)], ["los"], tmp_path / "a.png", "Loss")
    assert "loss" in error.value.allowed
    assert not (tmp_path / "a.png").exists()


def test_a_name_of_another_format_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with raises_code(ConfigError, "plot.not-png", "a.svg", ".png"):
        plot_runs([tmp_path / "none"], ["loss"], tmp_path / "a.svg", "Loss")

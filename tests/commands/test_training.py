"""`etrm config` as a user meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from etrm.config import load

ROOT = Path(__file__).parents[2]


def etrm_config(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "cli.py"), "config", *words]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**os.environ, "COLUMNS": "120"}, timeout=300
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder that holds the config of a run."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(load("smoke", overrides=("train.seed=4",)).to_json())
    return folder


def test_the_output_of_a_pipe_is_a_config_file(tmp_path: Path) -> None:
    done = etrm_config("--preset", "smoke", "--set", "train.lr=3e-4", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    path = tmp_path / "mine.toml"
    path.write_text(done.stdout)
    assert load(path=path) == load("smoke", overrides=("train.lr=3e-4",))
    again = etrm_config("--config", "mine.toml", "--json", cwd=tmp_path)
    rows = {row["name"]: row for row in json.loads(again.stdout)}
    assert rows["train.lr"]["source"] == {"kind": "file", "name": "mine.toml"}


def test_without_a_source_it_is_the_preset_that_commands_begin_with(tmp_path: Path) -> None:
    rows = json.loads(etrm_config("--json", cwd=tmp_path).stdout)
    assert {"preset": "small"}.items() <= {row["name"]: row["value"] for row in rows}.items()


@pytest.mark.parametrize("place", ["run", "run/checkpoints/step_00000002"])
def test_a_run_or_its_checkpoint_is_shown_as_it_was_trained(run: Path, place: str, tmp_path: Path) -> None:
    done = etrm_config(place, "--set", "train.steps=7", "--json", cwd=tmp_path)
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert (rows["train.seed"]["value"], rows["train.seed"]["source"]["kind"]) == (4, "run")
    assert (rows["train.steps"]["value"], rows["train.steps"]["source"]["kind"]) == (7, "--set")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("run", "--preset", "smoke"), "preset"),
        (("nowhere",), "nowhere"),
        (("--preset", "smok"), "'smoke'"),
        (("--set", "train.decoder='runs/it's here'"), "runs/it's here"),
        (("--set", "preset=smoke"), "--preset smoke"),
        (("run", "--set", "train.warmup_steps=999"), "999"),
    ],
)
def test_bad_input_is_exit_2_without_a_traceback(
    run: Path, words: tuple[str, ...], shown: str, tmp_path: Path
) -> None:
    done = etrm_config(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert shown in done.stderr
    assert "Traceback" not in done.stderr

"""What the shell offers: the functions, and the protocol by which a shell asks for words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from etrm.commands import completion
from etrm.config import list_presets, list_settings, load
from etrm.training.faults import FAULTS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "deep/second"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text(load("smoke").to_json())
    (tmp_path / "runs/judged").mkdir()
    (tmp_path / "runs/judged/result.json").write_text("{}")
    monkeypatch.chdir(tmp_path)


def offered(words: list[str], folder: Path) -> list[str]:
    """What bash is offered for the last word of a command line, asked as typer's script for bash does."""
    code = "import sys; sys.argv = ['etrm']; import cli; cli.main()"
    protocol = {"_ETRM_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words)}
    environment = os.environ | protocol | {"COMP_CWORD": str(len(words) - 1), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_a_shell_is_offered_presets_settings_and_runs(runs: None, tmp_path: Path) -> None:
    assert offered(["etrm", "train", "--preset", "sm"], tmp_path) == ["small", "smoke"]
    assert offered(["etrm", "train", "--set", "train.batch"], tmp_path) == ["train.batch_size="]
    assert offered(["etrm", "watch", "runs/f"], tmp_path) == ["runs/first"]


def test_presets_begin_with_the_word() -> None:
    assert completion.complete_preset("") == list_presets()
    assert completion.complete_preset("smo") == ["smoke"]
    assert completion.complete_preset("x") == []


def test_the_faults_in_the_source_are_those_that_can_be_injected() -> None:
    assert dict(completion.complete_fault("")) == {fault.name: fault.what for fault in FAULTS.values()}
    assert [name for name, _ in completion.complete_fault("cached-con")] == ["cached-context"]


def test_a_setting_is_offered_with_its_description_then_with_its_values() -> None:
    every = dict(completion.complete_setting(""))
    assert every == {f"{name}=": one.description for name, one in list_settings().items()}
    assert [word for word, _ in completion.complete_setting("train.optimizer=ada")] == [
        "train.optimizer=adam_atan2",
        "train.optimizer=adamw",
    ]
    assert ("train.ema=none", "") not in completion.complete_setting("train.lr=")
    assert [word for word, _ in completion.complete_setting("monitor.enabled=")] == [
        "monitor.enabled=true",
        "monitor.enabled=false",
    ]
    assert completion.complete_setting("no.such=") == []


def test_runs_are_found_from_the_folder_runs_or_from_a_path(runs: None, tmp_path: Path) -> None:
    assert completion.complete_run("") == ["runs/deep/second", "runs/first"]
    assert completion.complete_run("runs/deep/") == ["runs/deep/second"]
    assert completion.complete_run(f"{tmp_path}/runs/f") == [f"{tmp_path}/runs/first"]
    assert completion.complete_investigation("") == ["runs/judged"]
    (tmp_path / "results").mkdir()
    assert completion.complete_run("res") == ["results/"]
    assert completion.complete_run("nowhere/x") == []


def test_words_of_a_closed_list() -> None:
    assert completion.choose_from("ema", "raw")("r") == ["raw"]
    assert "accuracy_all" in completion.complete_column("acc")

"""The program of a copy: what it writes, and how it fails."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from etrm.checkpoints.folder_lock import lock_folder
from etrm.config import load, with_settings
from etrm.investigation.runs.launchers import Attempt
from etrm.investigation.unlisted.copy_process import STOPPED
from etrm.investigation.unlisted.program import EVALUATION, REFUSED, InThisProcess, main
from etrm.investigation.unlisted.unlisted_benchmark import BRIEF

TINY = with_settings(
    load("smoke"),
    data={"max_tasks": 3},
    train={"steps": 2, "warmup_steps": 0, "threads": 1},
    monitor={"reference_every": None},
)


def write_config(tmp_path: Path, text: str) -> str:
    (tmp_path / "config.json").write_text(text, "utf-8")
    return str(tmp_path / "config.json")


def test_a_config_is_trained_and_evaluated(tmp_path: Path) -> None:
    assert main(["train", write_config(tmp_path, TINY.to_json()), str(tmp_path / "run")]) == 0
    found = json.loads((tmp_path / "run" / EVALUATION).read_text("utf-8"))
    assert found["samples"] == sum(len(pairs) for pairs in found["candidates"].values()) * 2
    assert 0 <= found["token_accuracy"] <= 1


def test_a_refused_config_ends_with_the_code_of_its_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = with_settings(TINY, data={"source": str(tmp_path / "nothing")})
    arguments = ["investigate", write_config(tmp_path, config.to_json()), str(tmp_path / "out")]
    assert main([*arguments, json.dumps(asdict(BRIEF)), "H5"]) == REFUSED
    assert capsys.readouterr().err.splitlines()[-1].startswith("data.")


def test_an_error_of_the_machine_has_an_exit_status_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    arguments = ["investigate", write_config(tmp_path, TINY.to_json()), str(out)]
    with lock_folder(out):
        assert main([*arguments, json.dumps(asdict(BRIEF)), "H5"]) == STOPPED


def test_a_call_in_this_process_ends_as_one_of_a_pool() -> None:
    executor, done = InThisProcess(), []
    attempts: list[Attempt] = [executor.submit(done.append, 1), executor.submit(int, "x")]
    assert done == [1]
    assert all(attempt.done() for attempt in attempts)
    assert attempts[0].exception() is None
    assert isinstance(attempts[1].exception(), ValueError)

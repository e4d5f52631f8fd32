"""Run folders in odd states: gone on with where that is exact, refused by name where not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etrm import __version__
from etrm.checkpoints.run_folder import read_findings, read_metrics, read_record
from etrm.checkpoints.saved_steps import list_saved
from etrm.config import Config
from etrm.errors import CheckpointError, RunFolderError
from etrm.training.trainer import train
from tests.errors import assert_holds, raises_code
from tests.training.runs import (
    Smoke,
)


@pytest.fixture
def finished(tmp_path: Path, smoke: Smoke) -> tuple[Config, Path]:
    """A run of four steps, with checkpoints of steps 2 and 4."""
    config = smoke("train.steps=4", "train.checkpoint_every=2", "monitor.enabled=false")
    assert train(config, tmp_path / "run")
    return config, tmp_path / "run"


def rewrite_state(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the newest checkpoint's state.json as another version of etrm might have written it."""
    file = list_saved(folder / "checkpoints")[-1] / "state.json"
    state = json.loads(file.read_text())
    del state["sha256"]["state.json"]  # its own digest may be absent
    change(state)
    file.write_text(json.dumps(state))


def test_a_folder_that_was_refused_before_its_first_step_is_begun(finished: tuple[Config, Path]) -> None:
    config, run = finished
    shutil.rmtree(run / "checkpoints")
    for name in ("run.json", "metrics.jsonl", "timing.jsonl"):
        (run / name).unlink()
    assert train(config, run, resume=True)
    assert len(read_metrics(run)) == 4


def test_a_checkpoint_of_a_newer_version_is_not_passed_over(finished: tuple[Config, Path]) -> None:
    rewrite_state(finished[1], lambda state: state.update(format=2))
    with raises_code(CheckpointError, "checkpoint.other-format", "format 1", got="format 2"):
        train(*finished, resume=True)


def test_a_checkpoint_that_lacks_what_this_version_needs_is_refused(finished: tuple[Config, Path]) -> None:
    rewrite_state(finished[1], lambda state: state.pop("ema_updates"))
    with raises_code(CheckpointError, "checkpoint.does-not-fit-run", "step 4", got="KeyError: 'ema_updates'"):
        train(*finished, resume=True)


def test_an_altered_checkpoint_is_passed_over_aloud(
    finished: tuple[Config, Path], caplog: pytest.LogCaptureFixture
) -> None:
    newest = list_saved(finished[1] / "checkpoints")[-1]
    (newest / "model.safetensors").write_bytes(b"")
    assert train(*finished, resume=True)
    assert_holds(caplog.text, newest, "checkpoint.damaged")


def test_where_no_checkpoint_is_whole_nothing_older_is_promised(finished: tuple[Config, Path]) -> None:
    for path in list_saved(finished[1] / "checkpoints"):
        (path / "model.safetensors").write_bytes(b"")
    with raises_code(CheckpointError, "checkpoint.none-whole", "step_00000004") as caught:
        train(*finished, resume=True)
    assert caught.value.next_step


def test_a_run_does_not_go_on_with_other_tasks(finished: tuple[Config, Path]) -> None:
    config, run = finished
    file = next(Path(config.data.source).glob("training/*.json"))
    before = file.read_text()
    task = json.loads(before)
    task["train"][0]["input"][0][0] ^= 1
    file.write_text(json.dumps(task))
    try:
        with raises_code(RunFolderError, "run.other-tasks", run):
            train(config, run, resume=True)
    finally:
        file.write_text(before)
    assert train(config, run, resume=True)


def test_another_environment_is_recorded_and_the_first_one_kept(finished: tuple[Config, Path]) -> None:
    config, run = finished
    first = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(first | {"commit": "an older one"}))
    assert train(config, run, resume=True)
    record = json.loads((run / "run.json").read_text())
    assert record["commit"] == first["commit"]
    assert [earlier["commit"] for earlier in record["earlier"]] == ["an older one"]
    assert train(config, run, resume=True)
    assert json.loads((run / "run.json").read_text()) == record


@pytest.mark.parametrize(
    ("name", "content", "code", "value"),
    [
        ("run.json", b"{", "run.damaged-file", "run.json"),
        ("run.json", b"[]", "run.damaged-file", "list"),
        ("config.json", b"{", "run.unreadable-config", "JSON"),
        ("config.json", b"\xff", "run.unreadable-config", "utf-8"),
        ("config.json", b'{"train": {"stpes": 3}}', "run.unreadable-config", "'train.steps'"),
        ("config.json", None, "run.absent", "config.json"),
    ],
)
def test_a_damaged_file_is_named(
    finished: tuple[Config, Path], name: str, content: bytes | None, code: str, value: str
) -> None:
    config, run = finished
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    with raises_code(RunFolderError, code, run if content is None else run / name, value):
        train(config, run, resume=True)


@pytest.mark.parametrize(("name", "content"), [("run.json", "{"), ("findings.json", "[1]")])
def test_what_is_advised_for_a_damaged_file_works(
    finished: tuple[Config, Path], name: str, content: str
) -> None:
    config, run = finished
    (run / name).write_text(content, "utf-8")
    read = {"run.json": read_record, "findings.json": read_findings}[name]
    with raises_code(RunFolderError, "run.damaged-file", run / name) as caught:
        read(run)
    assert caught.value.next_step.startswith("remove the file; --resume writes")
    (run / name).unlink()
    assert train(config, run, resume=True)
    assert (run / name).exists()
    read(run)


def test_a_config_of_another_version_is_read_by_that_version(finished: tuple[Config, Path]) -> None:
    config, run = finished
    (run / "config.json").write_text('{"train": {"stpes": 3}}', "utf-8")
    record = json.loads((run / "run.json").read_text("utf-8"))
    for version, named in ((__version__, False), ("0.0.7", True)):
        record["versions"]["etrm"] = version
        (run / "run.json").write_text(json.dumps(record), "utf-8")
        with raises_code(RunFolderError, "run.unreadable-config") as caught:
            train(config, run, resume=True)
        assert (version in caught.value.next_step) is named


def test_checkpoints_without_a_record_are_not_taken_for_a_new_run(finished: tuple[Config, Path]) -> None:
    config, run = finished
    (run / "run.json").unlink()
    with raises_code(RunFolderError, "run.exists", run, "--resume"):
        train(config, run)

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from etrm.checkpoints.run_folder import FROM_STEP, RunFolder, read_config, read_metrics, read_source_state
from etrm.config import Config
from etrm.errors import FolderInUseError, LeakageError, RunFolderError
from etrm.training.trainer import Trainer, train
from tests.command_line import etrm
from tests.errors import assert_holds, raises_code
from tests.training.runs import ROOT

Smoke = Callable[..., Config]


@contextmanager
def opened(
    path: Path, config: Config, *, resume: bool = False, metrics_bytes: int = 0
) -> Iterator[RunFolder]:
    folder = RunFolder(path, config, resume=resume)
    try:
        folder.start({"seed": 0}, metrics_bytes)
        yield folder
    finally:
        folder.close()


def lines(folder: RunFolder, *steps: int) -> None:
    for step in steps:
        folder.log({"step": step}, {"step": step, "seconds": 0.5})


def test_a_new_folder_holds_its_config_and_environment(tmp_path: Path) -> None:
    config = Config()
    with opened(tmp_path / "a" / "b", config):
        pass
    assert read_config(tmp_path / "a" / "b") == config
    record = json.loads((tmp_path / "a" / "b" / "run.json").read_text())
    assert record == {"seed": 0, "host": platform.node(), FROM_STEP: 0}


def test_after_a_discarded_start_a_run_reads_nothing_of_the_run_before(tmp_path: Path, smoke: Smoke) -> None:
    settings = ("train.steps=1", "train.warmup_steps=0", "monitor.enabled=false")
    frozen = "train.freeze_decoder_steps=1"
    with closing(RunFolder(tmp_path / "run", smoke(*settings, frozen), resume=False)) as folder:
        assert Trainer(smoke(*settings, frozen), folder).run()
        folder.append("reference.jsonl", "{}")
        folder.discard_start()
    assert train(smoke(*settings, frozen, "train.seed=1"), tmp_path / "run")
    span = json.loads((tmp_path / "run" / "frozen.json").read_text())
    assert span["matched"] == span["total"] > 0
    assert not (tmp_path / "run" / "reference.jsonl").exists()


def test_the_record_has_the_step_from_which_the_newest_process_trains(tmp_path: Path) -> None:
    for step in (0, 7):
        folder = RunFolder(tmp_path / "run", Config(), resume=True)
        folder.start({"seed": 0}, 0, step)
        folder.close()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record == {"seed": 0, "host": platform.node(), FROM_STEP: 7}  # the same machine: nothing changed


def test_an_open_folder_cannot_be_opened_again(tmp_path: Path) -> None:
    with opened(tmp_path, Config()), raises_code(FolderInUseError, "run.in-use", tmp_path, os.getpid()):
        RunFolder(tmp_path, Config(), resume=True)


def test_an_existing_run_is_not_begun_again(tmp_path: Path) -> None:
    with opened(tmp_path, Config()):
        pass
    with raises_code(RunFolderError, "run.exists", tmp_path, "--resume") as caught:
        RunFolder(tmp_path, Config(), resume=False)
    assert "--resume" in caught.value.next_step


def test_a_run_is_not_resumed_with_another_config(tmp_path: Path) -> None:
    with opened(tmp_path, Config()):
        pass
    other = Config.model_validate({"train": {"lr": 0.5}})
    with raises_code(RunFolderError, "run.other-config", tmp_path, got="train.lr 0.5, was 0.0001"):
        RunFolder(tmp_path, other, resume=True)
    assert read_config(tmp_path) == Config()


def test_a_refusal_releases_the_lock(tmp_path: Path) -> None:
    with opened(tmp_path, Config()):
        pass
    with raises_code(RunFolderError, "run.exists", tmp_path):
        RunFolder(tmp_path, Config(), resume=False)
    with opened(tmp_path, Config(), resume=True):
        pass


def test_a_run_that_was_refused_for_its_data_leaves_the_folder_free(tmp_path: Path, smoke: Smoke) -> None:
    with pytest.raises(LeakageError):
        train(smoke("data.subset=evaluation"), tmp_path)
    assert train(smoke("train.steps=2", "train.warmup_steps=0"), tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises_code(RunFolderError, "run.not-writable", tmp_path / "file" / "run") as caught:
        RunFolder(tmp_path / "file" / "run", Config(), resume=False)
    assert_holds(caught.value.next_step, "--out")
    assert "--resume" not in caught.value.next_step  # no space or permission would help


def test_metrics_are_one_line_per_step_and_seconds_stand_apart(tmp_path: Path) -> None:
    with opened(tmp_path, Config()) as folder:
        lines(folder, 1, 2)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    assert "seconds" in (tmp_path / "timing.jsonl").read_text()


def test_metrics_are_cut_back_to_what_the_checkpoint_knows(tmp_path: Path) -> None:
    with opened(tmp_path, Config()) as folder:
        lines(folder, 1, 2)
        known = folder.metrics_bytes
        lines(folder, 3)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # the process was killed here
    with opened(tmp_path, Config(), resume=True, metrics_bytes=known) as folder:
        lines(folder, 3)
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2}, {"step": 3}]


def test_metrics_that_lost_their_end_are_never_filled_with_zeros(tmp_path: Path) -> None:
    with opened(tmp_path, Config()) as folder:
        lines(folder, 1)
    with opened(tmp_path, Config(), resume=True, metrics_bytes=10_000):
        pass
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n'


def test_a_line_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    assert read_metrics(tmp_path) == [{"step": 1}]


def test_metrics_hold_no_number_that_json_does_not_know(tmp_path: Path) -> None:
    bad: dict[str, Any] = {"loss": float("nan")}
    with opened(tmp_path, Config()) as folder, pytest.raises(ValueError, match="JSON compliant"):  # json's
        folder.log(bad, {})


def test_a_run_is_not_resumed_on_other_tasks(tmp_path: Path) -> None:
    for resume, tasks in ((False, "a" * 64), (True, "a" * 64)):
        folder = RunFolder(tmp_path, Config(), resume=resume)
        folder.start({"data_hash": tasks}, 0)
        folder.close()
    folder = RunFolder(tmp_path, Config(), resume=True)
    with raises_code(RunFolderError, "run.other-tasks", tmp_path):
        folder.start({"data_hash": "b" * 64}, 0)
    folder.close()


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with raises_code(RunFolderError, "run.absent", tmp_path, "config.json"):
        read_config(tmp_path)


def test_the_source_is_the_commit_of_the_tree() -> None:
    commit, dirty = read_source_state()
    assert commit == "unknown" or len(commit) == 40
    assert isinstance(dirty, bool)


HOLDER = """
import sys
from pathlib import Path
from etrm.checkpoints.folder_lock import lock_folder
lock = lock_folder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_told_who_works_here_until_that_one_is_killed(
    tmp_path: Path, smoke: Smoke
) -> None:
    run = tmp_path / "run"
    assert train(smoke("train.steps=1", "train.warmup_steps=0"), run)
    command = [sys.executable, "-c", HOLDER, str(run)]
    with subprocess.Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        for _ in range(2):  # the refused one must not wipe the name out
            second = etrm("train", "--out", run, "--resume")
            assert second.code == 2
            assert_holds(second.err, "run.in-use", run, first.pid, platform.node())
        first.kill()
    RunFolder(run, read_config(run), resume=True).close()

"""Processes that are asked to end: they keep a checkpoint of the step in hand."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import cli
from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.run_folder import read_metrics
from etrm.checkpoints.saved_steps import list_saved
from etrm.training.trainer import Trainer, train
from tests.forked import forking
from tests.training.runs import (
    ENDLESS,
    ROOT,
    SMALL,
    RunBytes,
    SettingsOfSmoke,
    Smoke,
    assert_same_run,
    command,
    new_run,
    started,
    steps_ever_done,
    wait_for_steps,
)


def assert_whole_and_ready_to_go_on(folder: Path) -> None:
    newest = checkpoints.read(list_saved(folder / "checkpoints")[-1])
    assert newest.step == len(read_metrics(folder)) >= 3


def etrm(words: list[str], errors: Path) -> None:
    """The command `etrm` as this whole process."""
    os.dup2(os.open(errors, os.O_CREAT | os.O_WRONLY), 2)
    sys.argv = ["etrm", *words]
    cli.main()


def test_a_process_that_is_asked_to_end_keeps_a_checkpoint_and_exits_130(
    tmp_path: Path, settings_of_smoke: SettingsOfSmoke
) -> None:
    run, errors = tmp_path / "run", tmp_path / "errors"
    words = ["train", "--out", str(run), *new_run(settings_of_smoke(*ENDLESS))]
    process = forking().Process(target=etrm, args=(words, errors), daemon=True)
    process.start()
    while steps_ever_done(run) < 3:
        assert process.is_alive(), errors.read_text()
        time.sleep(0.002)
    process.terminate()
    process.join()
    assert process.exitcode == 130
    assert "stopped early" in errors.read_text()
    assert "--resume" in errors.read_text()
    assert_whole_and_ready_to_go_on(run)


@pytest.mark.slow
def test_a_closed_terminal_is_an_end_in_good_order(
    tmp_path: Path, settings_of_smoke: SettingsOfSmoke
) -> None:
    """The system sends SIGHUP, and nothing can be printed any more."""
    run = tmp_path / "run"
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, command(run, *new_run(settings_of_smoke(*ENDLESS))))
    while steps_ever_done(run) < 3:
        os.read(terminal, 65536)  # the bars, which would fill the terminal's buffer
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert_whole_and_ready_to_go_on(run)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_process_at_once_and_without_a_traceback(
    tmp_path: Path, settings_of_smoke: SettingsOfSmoke, run_bytes: RunBytes, smoke: Smoke
) -> None:
    settings = ("train.steps=400", "train.checkpoint_every=5")
    process = started(tmp_path / "run", *new_run(settings_of_smoke(*settings)))
    wait_for_steps(process, tmp_path / "run", 12)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    last = subprocess.run(command(tmp_path / "run", "--resume"), cwd=ROOT, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert train(smoke(*settings), tmp_path / "whole")
    assert_same_run(run_bytes(tmp_path / "whole"), run_bytes(tmp_path / "run"))


def test_a_process_that_ignores_hangups_goes_on(tmp_path: Path, smoke: Smoke) -> None:
    """As under nohup."""

    def hang_up(trainer: Trainer, metrics: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert train(smoke(*SMALL), tmp_path / "run", on_step=hang_up)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)

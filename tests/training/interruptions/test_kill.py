"""Runs that are killed at any moment: they go on exactly."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from etrm.checkpoints.saved_steps import list_saved
from etrm.training.trainer import train
from tests.training.runs import (
    ROOT,
    RunBytes,
    SettingsOfSmoke,
    Smoke,
    assert_same_run,
    command,
    kill,
    new_run,
    started,
    steps_ever_done,
    wait_for_steps,
)

CHECKPOINT_FILES = {"model.safetensors", "ema.safetensors", "state.safetensors", "state.json"}


def place_of_death(folder: Path, steps_before: int, keep: int) -> str:
    """Where a process was when it was killed, from what it left."""
    found = folder / "checkpoints"
    saved = list_saved(found)
    if not saved:
        return "before the first checkpoint was whole"
    if list(found.glob(".step_*.tmp")):
        return "in a save, before its checkpoint was renamed into place"
    if len(saved) > keep or any({f.name for f in path.iterdir()} != CHECKPOINT_FILES for path in saved):
        return "in a save, before the oldest checkpoint was gone"
    if steps_ever_done(folder) == steps_before:
        return "while it started, or in its first step"
    if not (folder / "metrics.jsonl").read_bytes().endswith(b"\n"):
        return "in a line of metrics.jsonl"
    return "in a step or between two"


LAUNCHER = """
import json, os, sys
import torch._dynamo, cli, reports.terminal.console, etrm.training.trainer  # the optimiser asks for _dynamo

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        sys.argv = ["etrm", *json.loads(line)]
        cli.main()
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Launcher:
    """Starts `etrm` processes as forks of one that has loaded torch, which spares each of them seconds."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER], cwd=ROOT, stdin=pipe, stdout=pipe, text=True
        )

    def _line(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())

    def start(self, *words: str) -> int:
        """The process id of `etrm WORDS`."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(words) + "\n")
        self._server.stdin.flush()
        return self._line()

    def exit_code(self) -> int:
        """Of the process that was started last, when it has ended; a signal's number is negative."""
        return self._line()

    def close(self) -> None:
        self._server.communicate()


def killed_run(
    folder: Path, settings: tuple[str, ...], kills: int, steps: int, draw: random.Random
) -> Counter[str]:
    """Begin a run, kill it so many times at random moments, let it end; where it died, counted."""
    places: Counter[str] = Counter()
    launcher = Launcher()
    for number in range(kills):
        before = steps_ever_done(folder)
        words = ["--resume"] if (folder / "run.json").exists() else new_run(settings)
        process = launcher.start("train", "--out", str(folder), *words)
        if number and draw.random() < 0.85:
            wanted = before + 1 + draw.randrange(steps // kills)
            while steps_ever_done(folder) < wanted:
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.05))
        else:
            time.sleep(draw.uniform(0, 2))
        os.kill(process, signal.SIGKILL)
        assert launcher.exit_code() == -signal.SIGKILL, "the run was too short to be killed"
        places[place_of_death(folder, before, keep=2)] += 1
    launcher.start("train", "--out", str(folder), "--resume")
    assert launcher.exit_code() == 0
    launcher.close()
    return places


@pytest.mark.slow
def test_a_process_that_is_killed_again_and_again_leaves_the_same_bytes(
    tmp_path: Path, smoke: Smoke, settings_of_smoke: SettingsOfSmoke, run_bytes: RunBytes
) -> None:
    """SIGKILL, three times, at moments that no one chose: in a step, a log line or a checkpoint."""
    settings = ("train.steps=60", "train.checkpoint_every=2", "train.keep_checkpoints=1")
    assert train(smoke(*settings), tmp_path / "whole")
    folder = tmp_path / "killed"
    for number, steps in enumerate((4, 18, 34)):
        words = ["--resume"] if number else new_run(settings_of_smoke(*settings))
        process = started(folder, *words)
        wait_for_steps(process, folder, steps)
        time.sleep(random.uniform(0, 0.05))
        kill(process)
    last = subprocess.run(command(folder, "--resume"), cwd=ROOT, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert_same_run(run_bytes(tmp_path / "whole"), run_bytes(folder))


KILLS = {
    "etrm": (50, ()),
    "trm": (12, ("model.variant=trm", "data.augmentations=2")),
    "etrm_cached": (12, ("model.variant=etrm_cached",)),
    "recurrent encoder": (12, ("model.encoder.kind=recurrent",)),
    "variational encoder": (12, ("model.encoder.kind=lpn_variational", "train.kl_weight=0.1")),
}


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "more"), KILLS.values(), ids=KILLS)
def test_many_kills_of_one_run_leave_the_same_bytes(
    tmp_path: Path,
    smoke: Smoke,
    settings_of_smoke: SettingsOfSmoke,
    run_bytes: RunBytes,
    capsys: pytest.CaptureFixture[str],
    kills: int,
    more: tuple[str, ...],
) -> None:
    """Weights, average, optimiser, random states and metrics: every file of the run, byte for byte."""
    seed = random.SystemRandom().randrange(10**6)
    steps = 6 * kills
    settings = (f"train.steps={steps}", "train.checkpoint_every=2", "monitor.every=5", *more)
    assert train(smoke(*settings), tmp_path / "whole")
    places = killed_run(tmp_path / "killed", settings_of_smoke(*settings), kills, steps, random.Random(seed))
    lost = steps_ever_done(tmp_path / "killed") - steps
    with capsys.disabled():
        print(f"\n{kills} kills, seed {seed}, {steps} steps, {lost} done again: {json.dumps(places)}")  # noqa: T201 (the counts of docs/results/README.md)
    assert_same_run(run_bytes(tmp_path / "whole"), run_bytes(tmp_path / "killed"))

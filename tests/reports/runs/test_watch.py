"""Frames of runs, and the command as a user has it: live during a real training run, in a pipe, interrupted."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from etrm.checkpoints.run_folder import read_config
from etrm.config import with_settings
from etrm.errors import RunFolderError
from etrm.training.trainer import train
from reports.runs.followed_run import Followed
from reports.runs.text_plot import bin_points, draw_text_plot
from reports.runs.watch import build_frame, watch
from tests.command_line import etrm
from tests.errors import raises_code

Write = Callable[..., Path]
ROOT = Path(__file__).parents[3]


def shown(folder: Path, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(build_frame(Followed(folder), width))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_frame_has_the_numbers_of_the_run(write_run: Write) -> None:
    text = shown(write_run("run", faults=("cached-context",), logged=30, checkpoints=(30,)))
    facts = ("stopped", "30 of 40", "15.0 s", "2 steps/s", "16 samples/s")
    assert all(fact in text for fact in facts)
    assert "cached-context" in " ".join(text.split())  # a long folder wraps the title
    (accuracy,) = (line for line in text.splitlines() if "token accuracy" in line)
    assert accuracy.split()[2:5] == ["0.2900", "0.02000", "0.2900"]  # means of three steps
    (coverage,) = (line for line in text.splitlines() if line.startswith("  encoder"))
    assert coverage.split()[1:4] == ["0.5000", "0.5000", "0.5000"]
    (core,) = (line for line in text.splitlines() if line.startswith("  core"))
    assert set(core.split()[-1]) == {"█"}  # a share is drawn between 0 and 1, steady or not
    assert "left" not in text  # nothing will come any more


def test_the_time_left_is_that_of_the_steps_left(write_run: Write) -> None:
    assert Followed(write_run(logged=30)).eta_s == pytest.approx(10 * 0.5)
    assert Followed(write_run("over", logged=45)).eta_s == 0
    assert Followed(write_run("none", logged=0)).eta_s is None


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_frame_fits_its_terminal(write_run: Write, width: int) -> None:
    text = shown(write_run(logged=300), width)
    assert max(len(line.rstrip()) for line in text.splitlines()[4:]) <= width
    assert width < 80 or "…" not in text


def test_a_run_without_a_step_and_one_with_damage_have_frames(write_run: Write) -> None:
    assert "0 of 40" in shown(write_run("empty", logged=0))
    damaged = write_run("damaged")
    with (damaged / "metrics.jsonl").open("a") as file:
        file.write("{\n")
    assert list(Followed(damaged).history.broken) == [31]
    assert ": 31" in shown(damaged)


def test_findings_are_shown(write_run: Write) -> None:
    folder = write_run()
    found = [{"severity": "critical", "rule": "COV001", "module": "", "message": "trained by few"}]
    (folder / "findings.json").write_text(json.dumps(found))
    assert all(value in shown(folder) for value in found[0].values())


def test_a_note_is_shown_by_its_cause(write_run: Write) -> None:
    folder = write_run()
    rules = ", ".join(f"ANY{number:03}" for number in range(40))
    found = [{"severity": "note", "rule": "RULE001", "module": "", "message": rules, "cause": "few steps"}]
    (folder / "findings.json").write_text(json.dumps(found))
    assert "note RULE001: few steps" in shown(folder)
    assert "ANY039" not in shown(folder)


def test_no_run_is_an_error_where_one_frame_is_asked_for(tmp_path: Path) -> None:
    with raises_code(RunFolderError, "run.absent", tmp_path / "none"):
        watch(tmp_path / "none", Console(file=io.StringIO()), once=True)


def test_looking_writes_nothing(write_run: Write) -> None:
    folder = write_run()
    before = {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}
    shown(folder)
    assert before == {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def test_binned_values_are_means_of_stretches() -> None:
    values = np.arange(10.0)
    assert bin_points(values, 5).tolist() == [0.5, 2.5, 4.5, 6.5, 8.5]
    assert bin_points(values, 3).tolist() == [1.0, 4.0, 7.5]
    assert bin_points(np.array([1.0, 2.0]), 4).tolist() == [1, 1, 2, 2]


def test_a_plot_has_one_level_for_each_eighth_of_a_line() -> None:
    assert draw_text_plot(np.array([0.0, 1.0, 5.0, -5.0]), 0, 1) == ["▁██▁"]
    assert draw_text_plot(np.arange(8.0), 0, 7) == ["▁▂▃▄▅▆▇█"]
    assert draw_text_plot(np.arange(16.0), 0, 15, height=2) == ["        ▁▂▃▄▅▆▇█", "▁▂▃▄▅▆▇█████████"]
    assert draw_text_plot(np.array([3.0, 3.0]), 3, 3) == ["▅▅"]


def started(*words: str, **options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "cli.py"), *words]
    env = {**os.environ, "COLUMNS": "120", "LINES": "60", "TERM": "xterm"}
    # Where the tests themselves run in the background of a shell, they hand on that Ctrl-C is ignored.
    heed = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    return subprocess.Popen(command, env=env, preexec_fn=heed, **options)  # type: ignore[call-overload,no-any-return]


def read_terminal(descriptor: int) -> str:
    """Everything that a process shows until it lets go of its terminal."""
    shown = b""
    while True:
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # how Linux ends a pseudo-terminal
            break
        if not data:
            break
        shown += data
    return shown.decode()


def test_a_run_is_waited_for_followed_and_seen_to_finish(tmp_path: Path, trained: Path) -> None:
    reader, terminal = pty.openpty()
    watching = started("watch", str(tmp_path / "run"), stdout=terminal, stderr=terminal)
    os.close(terminal)
    waited = read_until_waiting(reader)
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(read_terminal, reader)  # a full terminal would stop the watch
        assert train(with_settings(read_config(trained), train={"steps": 8}), tmp_path / "run")
        assert watching.wait() == 0
    os.close(reader)
    assert "finished" not in waited
    assert "finished" in rest.result()
    assert "8 of 8" in rest.result()


def read_until_waiting(descriptor: int) -> str:
    """What a watch shows until it waits for its run."""
    seen = b""
    while b"waiting" not in seen:
        seen += os.read(descriptor, 65536)
    return seen.decode()


def test_ctrl_c_ends_the_watch_and_nothing_else(tmp_path: Path) -> None:
    reader, terminal = pty.openpty()
    watching = started("watch", str(tmp_path / "none"), stdout=terminal, stderr=terminal)
    os.close(terminal)
    read_until_waiting(reader)
    time.sleep(0.1)
    watching.send_signal(signal.SIGINT)
    rest = read_terminal(reader)
    os.close(reader)
    assert watching.wait() == 0
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_gets_one_frame(write_run: Write) -> None:
    ended = etrm("watch", write_run())
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("token accuracy") == 1
    assert "\x1b" not in ended.out

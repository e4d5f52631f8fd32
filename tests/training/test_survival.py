"""Real processes that are killed, stopped and starved: what they leave is whole, and they go on exactly."""

from __future__ import annotations

import errno
import json
import os
import platform
import pty
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from etrm.config import Config
from etrm.errors import CheckpointError, EtrmError, RunFolderError
from etrm.training import checkpoint as checkpoints
from etrm.training.run_folder import RunFolder, read_config, read_metrics
from etrm.training.trainer import Trainer, train

Smoke = Callable[..., Config]
RunBytes = Callable[[Path], dict[str, bytes]]
SettingsOfSmoke = Callable[..., tuple[str, ...]]
ROOT = Path(__file__).parents[2]


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "cli", "train", "--out", str(folder), *more]


def started(folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command(folder, *more), cwd=ROOT, stderr=subprocess.PIPE, text=True)


def new_run(settings: tuple[str, ...]) -> list[str]:
    return ["--preset", "smoke", *(word for setting in settings for word in ("--set", setting))]


def steps_ever_done(folder: Path) -> int:
    """Lines of timing.jsonl, which no resumed run cuts back."""
    timing = folder / "timing.jsonl"
    return timing.read_bytes().count(b"\n") if timing.exists() else 0


def wait_for_steps(process: subprocess.Popen[str], folder: Path, steps: int) -> None:
    """Wait until the folder's processes have done so many steps in all, those that were lost included."""
    while steps_ever_done(folder) < steps:
        if process.poll() is not None:
            raise AssertionError(f"ended before step {steps}: {process.communicate()[1]}")
        time.sleep(0.002)


def assert_same_run(first: dict[str, bytes], second: dict[str, bytes]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


# -- kill -9 ------------------------------------------------------------------------------------------

CHECKPOINT_FILES = {"model.safetensors", "ema.safetensors", "state.safetensors", "state.json"}


def kill(process: subprocess.Popen[str]) -> None:
    assert process.poll() is None, "the run was too short to be killed"
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()


def place_of_death(folder: Path, steps_before: int, keep: int) -> str:
    """Where a process was when it was killed, from what it left."""
    found = folder / "checkpoints"
    saved = checkpoints.saved(found)
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
import torch._dynamo, cli, reports.console, etrm.training.trainer  # the optimiser asks for _dynamo

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


def test_a_process_that_is_killed_again_and_again_leaves_the_same_bytes(
    tmp_path: Path, smoke: Smoke, settings_of_smoke: SettingsOfSmoke, run_bytes: RunBytes
) -> None:
    """SIGKILL, three times, at moments that no one chose: in a step, a log line or a checkpoint."""
    settings = ("train.steps=90", "train.checkpoint_every=2", "train.keep_checkpoints=1")
    assert train(smoke(*settings), tmp_path / "whole")
    folder = tmp_path / "killed"
    for number, steps in enumerate((4, 25, 50)):
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
        print(f"\n{kills} kills, seed {seed}, {steps} steps, {lost} done again: {json.dumps(places)}")  # noqa: T201 (the counts of docs/reliability.md)
    assert_same_run(run_bytes(tmp_path / "whole"), run_bytes(tmp_path / "killed"))


# -- asked to end -------------------------------------------------------------------------------------

ENDLESS = ("train.steps=100000", "train.checkpoint_every=1000")


def assert_whole_and_ready_to_go_on(folder: Path) -> None:
    newest = checkpoints.read(checkpoints.saved(folder / "checkpoints")[-1])
    assert newest.step == len(read_metrics(folder)) >= 3


def test_a_process_that_is_asked_to_end_keeps_a_checkpoint_and_exits_130(
    tmp_path: Path, settings_of_smoke: SettingsOfSmoke
) -> None:
    process = started(tmp_path / "run", *new_run(settings_of_smoke(*ENDLESS)))
    wait_for_steps(process, tmp_path / "run", 3)
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "stopped early" in errors
    assert "--resume" in errors
    assert_whole_and_ready_to_go_on(tmp_path / "run")


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


# -- two processes ------------------------------------------------------------------------------------


def test_a_second_process_is_told_who_works_here_until_that_one_is_killed(
    tmp_path: Path, smoke: Smoke, settings_of_smoke: SettingsOfSmoke
) -> None:
    run = tmp_path / "run"
    first = started(run, *new_run(settings_of_smoke(*ENDLESS)))
    wait_for_steps(first, run, 1)
    for _ in range(2):  # the refused one must not wipe the name out
        second = subprocess.run(command(run, "--resume"), cwd=ROOT, capture_output=True, text=True)
        assert second.returncode == 2
        assert f"another process is working in {run}" in second.stderr
        assert f"process {first.pid} on {platform.node()}, since " in second.stderr
        assert "Traceback" not in second.stderr
    kill(first)
    RunFolder(run, read_config(run), resume=True).close()


# -- a disk that is full ------------------------------------------------------------------------------

SMALL = ("train.steps=6", "train.checkpoint_every=2", "train.warmup_steps=0")


class FailingCalls:
    """Counts the calls by which a run changes the disk, and lets one of them fail."""

    CALLS = (
        *((os, name) for name in ("mkdir", "rename", "replace", "fsync", "truncate", "unlink", "rmdir")),
        (checkpoints, "save_file"),
        (Path, "write_text"),
        (Path, "touch"),
    )

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.failing = -1
        for owner, name in self.CALLS:
            monkeypatch.setattr(owner, name, self._counted(name, getattr(owner, name)))

    def _counted(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.names.append(name)
            if len(self.names) - 1 == self.failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*args, **more)

        return call

    def fail(self, number: int) -> None:
        self.names, self.failing = [], number

    @contextmanager
    def refused(self, kind: type[EtrmError]) -> Iterator[None]:
        """Around what meets the failing call; only making a folder that is there may go on."""
        problem = ""
        try:
            yield
        except kind as error:
            problem = str(error)
        assert "No space left on device" in problem or self.names[self.failing] == "mkdir"


def assert_every_checkpoint_is_whole(folder: Path) -> None:
    for path in checkpoints.saved(folder):
        checkpoints.read(path)


def made(step: int) -> checkpoints.Checkpoint:
    tensors = {"a": torch.full((3,), float(step))}
    return checkpoints.Checkpoint(step, tensors, tensors, tensors, {"metrics_bytes": 0})


def test_whichever_call_of_a_save_fails_every_checkpoint_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are kept, so that the third save also drops one."""

    def two_saved(folder: Path) -> None:
        for step in (1, 2):
            checkpoints.save(folder, made(step), keep=2)

    calls = FailingCalls(monkeypatch)
    two_saved(tmp_path / "none")
    calls.fail(-1)
    checkpoints.save(tmp_path / "none", made(3), keep=2)
    names = list(calls.names)
    assert {"mkdir", "save_file", "write_text", "fsync", "rename", "unlink", "rmdir"} <= set(names)
    for number in range(len(names)):
        folder = tmp_path / str(number)
        calls.fail(-1)
        two_saved(folder)
        calls.fail(number)
        with calls.refused(CheckpointError):
            checkpoints.save(folder, made(3), keep=2)
        assert_every_checkpoint_is_whole(folder)
        assert "step_00000002" in [path.name for path in checkpoints.saved(folder)]
        calls.fail(-1)
        checkpoints.save(folder, made(4), keep=2)
        assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_whichever_call_of_a_run_fails_it_goes_on_where_space_is_back(
    tmp_path: Path,
    smoke: Smoke,
    run_bytes: RunBytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = FailingCalls(monkeypatch)
    config = smoke(*SMALL)
    assert train(config, tmp_path / "whole")
    names = list(calls.names)
    whole = run_bytes(tmp_path / "whole")
    for number in range(len(names)):
        folder = tmp_path / str(number)
        calls.fail(number)
        with calls.refused(EtrmError):
            train(config, folder)
        assert_every_checkpoint_is_whole(folder / "checkpoints")
        calls.fail(-1)
        assert train(config, folder, resume=True)
        assert_same_run(whole, run_bytes(folder))
    with capsys.disabled():
        print(f"\n{len(names)} calls failed in turn: {dict(Counter(names))}")  # noqa: T201


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of the given size, or gives it another; only where that is allowed."""
    mounted = tmp_path / "disk"
    mounted.mkdir()

    def resize(size: str) -> Path:
        options = f"size={size}" + (",remount" if mounted.is_mount() else "")
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mounted)]
        if subprocess.run(words, capture_output=True).returncode:
            pytest.skip("mounting is not allowed here")
        return mounted

    yield resize
    if mounted.is_mount():
        subprocess.run(["umount", "-l", str(mounted)], check=True)


@pytest.mark.parametrize("pages", [8, 0], ids=["in a save", "in a line of metrics"])
def test_a_disk_that_fills_up_leaves_the_last_checkpoint_and_the_run_goes_on_when_there_is_space(
    tmp_path: Path,
    smoke: Smoke,
    run_bytes: RunBytes,
    small_disk: Callable[[str], Path],
    pages: int,
) -> None:
    # Lines of over a page each, so that the first one meets the end of the disk.
    config = smoke(*SMALL)
    folder = small_disk("64m") / "run"
    filler = folder.parent / "filler"

    def fill(trainer: Trainer, metrics: dict[str, Any]) -> None:
        """Leave a few pages: for lines and no checkpoint, or not for all lines up to the next one."""
        if trainer.step == 3:
            disk = os.statvfs(folder)
            filler.write_bytes(bytes((disk.f_bavail - pages) * disk.f_frsize))

    with pytest.raises(EtrmError, match="No space left on device") as caught:
        train(config, folder, on_step=fill)
    assert "--resume" in caught.value.next_step
    assert_every_checkpoint_is_whole(folder / "checkpoints")
    assert checkpoints.saved(folder / "checkpoints")[-1].name == "step_00000002"
    with pytest.raises(EtrmError, match="No space left on device"):
        train(config, folder, resume=True)  # still full
    small_disk("128m")
    assert train(config, folder, resume=True)
    assert train(config, tmp_path / "whole")
    assert_same_run(run_bytes(tmp_path / "whole"), run_bytes(folder))


def test_a_process_whose_files_may_not_grow_exits_2_without_a_traceback(
    tmp_path: Path, settings_of_smoke: SettingsOfSmoke
) -> None:
    """RLIMIT_FSIZE: the weights do not fit, what is small does."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    words = command(tmp_path / "run", *new_run(settings_of_smoke()))
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, preexec_fn=limited)
    assert done.returncode == 2, done.stderr
    assert "checkpoint of step 0 could not be written" in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_a_folder_that_becomes_unwritable_leaves_the_last_checkpoint(
    tmp_path: Path, smoke: Smoke, run_bytes: RunBytes
) -> None:
    """A file stands where the checkpoints were: permissions mean nothing to root."""
    config, run = smoke(*SMALL), tmp_path / "run"

    def block(trainer: Trainer, metrics: dict[str, Any]) -> None:
        if trainer.step == 3:
            (run / "checkpoints").rename(run / "aside")
            (run / "checkpoints").write_text("")

    with pytest.raises(CheckpointError, match="step 4 could not be written"):
        train(config, run, on_step=block)
    (run / "checkpoints").unlink()
    (run / "aside").rename(run / "checkpoints")
    assert_every_checkpoint_is_whole(run / "checkpoints")
    assert train(config, run, resume=True)
    assert train(config, tmp_path / "whole")
    assert_same_run(run_bytes(tmp_path / "whole"), run_bytes(run))


def test_a_disk_that_is_read_only_is_named(
    tmp_path: Path, smoke: Smoke, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("8m,ro")
    with pytest.raises(RunFolderError, match="Read-only file system") as caught:
        train(smoke(*SMALL), disk / "run")
    assert str(disk) in caught.value.what


# -- folders in odd states ----------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path: Path, smoke: Smoke) -> tuple[Config, Path]:
    """A run of four steps, with checkpoints of steps 2 and 4."""
    config = smoke("train.steps=4", "train.checkpoint_every=2", "monitor.enabled=false")
    assert train(config, tmp_path / "run")
    return config, tmp_path / "run"


def rewrite_state(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the newest checkpoint's state.json as another version of etrm might have written it."""
    file = checkpoints.saved(folder / "checkpoints")[-1] / "state.json"
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
    with pytest.raises(CheckpointError, match=r"another format .*\n  got:     format 2\n  allowed: format 1"):
        train(*finished, resume=True)


def test_a_checkpoint_that_lacks_what_this_version_needs_is_refused(finished: tuple[Config, Path]) -> None:
    rewrite_state(finished[1], lambda state: state.pop("ema_updates"))
    with pytest.raises(
        CheckpointError, match="step 4 does not fit this run\n  got:     KeyError: 'ema_updates'"
    ):
        train(*finished, resume=True)


def test_an_altered_checkpoint_is_passed_over_aloud(
    finished: tuple[Config, Path], caplog: pytest.LogCaptureFixture
) -> None:
    newest = checkpoints.saved(finished[1] / "checkpoints")[-1]
    (newest / "model.safetensors").write_bytes(b"")
    assert train(*finished, resume=True)
    assert f"passed over: {newest} is not a whole checkpoint" in caplog.text


def test_a_run_does_not_go_on_with_other_tasks(finished: tuple[Config, Path]) -> None:
    config, run = finished
    file = next(Path(config.data.source).glob("training/*.json"))
    before = file.read_text()
    task = json.loads(before)
    task["train"][0]["input"][0][0] ^= 1
    file.write_text(json.dumps(task))
    try:
        with pytest.raises(RunFolderError, match=r"the tasks are not those that the run in .* began with"):
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
    ("name", "content", "message"),
    [
        ("run.json", b"{", "run.json is damaged"),
        ("run.json", b"[]", "run.json is damaged"),
        ("config.json", b"{", "config.json is no config of this version of etrm"),
        ("config.json", b"\xff", "config.json is no config of this version of etrm"),
        ("config.json", b'{"train": {"stpes": 3}}', "did you mean 'train.steps'"),
        ("config.json", None, "is not a run folder"),
    ],
)
def test_a_damaged_file_is_named(
    finished: tuple[Config, Path], name: str, content: bytes | None, message: str
) -> None:
    config, run = finished
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    with pytest.raises(RunFolderError, match=re.escape(message)):
        train(config, run, resume=True)


def test_checkpoints_without_a_record_are_not_taken_for_a_new_run(finished: tuple[Config, Path]) -> None:
    config, run = finished
    (run / "run.json").unlink()
    with pytest.raises(RunFolderError, match="already holds a run"):
        train(config, run)


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

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from etrm.checkpoints.folder_lock import lock_folder
from etrm.errors import FolderInUseError
from tests.errors import raises_code

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with raises_code(FolderInUseError, "run.in-use", tmp_path):
            lock_folder(tmp_path)
        holder.kill()
    with lock_folder(tmp_path):
        holds = (tmp_path / "lock").read_text()
    assert f"process {os.getpid()} on {platform.node()}" in holds


def test_a_folder_that_does_not_exist_is_not_locked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lock_folder(tmp_path / "none")

"""Processes of a copy: their copy of the packages, their failures and their time limit."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from etrm.config import load
from etrm.errors import ProcessError
from etrm.investigation.unlisted import copy_process
from etrm.investigation.unlisted.copy_process import STOPPED, CopyProcess
from etrm.investigation.unlisted.unlisted_benchmark import BRIEF
from tests.errors import raises_code

PROGRAM = """
import os, sys, time, subprocess
command, config, out = sys.argv[1:4]
assert open(config).read().startswith("{")
if command == "investigate":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    open(out, "w").write(str(child.pid))
    time.sleep(60)
print(os.environ["ETRM_CACHE"], os.environ["MORE"])
sys.stderr.write("a line\\n\\nthe.last-line\\n")
sys.exit(int(os.environ["MORE"]))
"""


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(copy_process, "PROGRAM", "program_of_this_test")
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "program_of_this_test.py").write_text(PROGRAM, "utf-8")
    return folder


def test_a_process_imports_the_copy_and_its_last_line_is_its_failure(copy: Path, tmp_path: Path) -> None:
    process = CopyProcess(BRIEF, ("H5",), limit=60)
    folder = tmp_path / "case"
    assert process.train(copy, folder, load("smoke"), {"MORE": "0"}) == ""
    assert str(folder / "cache") in (folder / "train.log").read_text("utf-8")
    assert process.train(copy, folder, load("smoke"), {"MORE": "3"}) == "the.last-line"
    failure = process.train(copy, folder, load("smoke"), {"MORE": "x"})
    assert failure.startswith("ValueError: invalid literal")
    with raises_code(ProcessError, "bench.case-stopped", folder, got="the.last-line"):
        process.train(copy, folder, load("smoke"), {"MORE": str(STOPPED)})


@pytest.mark.skipif(sys.platform == "win32", reason="needs process groups")
def test_a_process_that_takes_too_long_ends_with_its_workers(copy: Path, tmp_path: Path) -> None:
    process = CopyProcess(BRIEF, ("H5",), limit=3)
    folder = tmp_path / "case"
    assert "longer than 3 seconds" in process.investigate(copy, folder, load("smoke"))
    worker = int((folder / "investigation").read_text("utf-8"))
    for _ in range(100):  # until init has collected it
        if not _runs(worker):
            return
        time.sleep(0.1)
    pytest.fail("its worker still runs")


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text("utf-8").rpartition(")")[2].split()[0] != "Z"

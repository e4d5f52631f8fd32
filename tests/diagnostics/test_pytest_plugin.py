"""The plugin in a pytest of its own: tables in reports, monitors detached, no torch before it is needed."""

from __future__ import annotations

import os
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from subprocess import run

import diagnostics

ROOT = Path(diagnostics.__file__).parent.parent

FAILING = """
import torch
from torch import nn
from diagnostics import assert_gradient_coverage

def test_coverage():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert_gradient_coverage(model, lambda: model[1](model[0](torch.ones(3, 2)).detach()).sum(), 3)
"""

MONITORED = """
import torch
from torch import nn

MODEL = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

def test_monitored(gradient_monitor):
    monitor = gradient_monitor(MODEL, watch=["0"])
    with monitor.step(samples=3):
        MODEL(torch.ones(3, 2)).sum().backward()
    assert monitor.coverage("0") == 0.5

def test_detached():
    assert not MODEL[0]._forward_hooks
"""

WITHOUT_TORCH = """
import sys

def test_nothing():
    assert "torch" not in sys.modules
"""


def pytest_on(folder: Path, source: str, *options: str) -> str:
    (folder / "test_it.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-p", "diagnostics.pytest_plugin", "-W", "error", *options]
    inherited = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    environment = {**inherited, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    found = run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    return found.stdout + found.stderr


def test_a_failed_assertion_prints_its_table_and_no_frames_of_the_toolkit(tmp_path: Path) -> None:
    output = pytest_on(tmp_path, FAILING)
    assert "1 failed" in output
    assert "E   module  gradient" in output
    assert "diagnostics.CheckFailed: COV001 0: a share of 0" in output
    shown = output.partition("short test summary")[0]  # which repeats the message where CI is set
    assert shown.count("what to do") == 1
    assert [line for line in shown.splitlines() if ".py:" in line and "FAILED" not in line] == [
        "test_it.py:8: in test_coverage"
    ]  # one frame: none of the toolkit, of pytest or of pluggy
    shown = output.partition("= FAILURES =")[2].partition("= short test summary")[0]
    assert len(shown.splitlines()) < 18


def test_a_helper_of_the_tests_keeps_its_frame(tmp_path: Path) -> None:
    nested = FAILING.replace("def test_coverage", "def check")
    output = pytest_on(tmp_path, nested + "\ndef test_coverage():\n    check()\n")
    frames = [line for line in output.splitlines() if ".py:" in line and "FAILED" not in line]
    assert frames == ["test_it.py:11: in test_coverage", "test_it.py:8: in check"]


def test_a_failed_test_shows_the_last_step_of_its_monitor(tmp_path: Path) -> None:
    output = pytest_on(tmp_path, MONITORED)
    assert "1 failed, 1 passed" in output
    assert "- diagnostics -" in output
    assert "0       arrived   1 of 1  1 " in output


def test_it_imports_no_torch_by_itself(tmp_path: Path) -> None:
    assert "1 passed" in pytest_on(tmp_path, WITHOUT_TORCH)


def test_it_is_an_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"diagnostics": "diagnostics.pytest_plugin"}
    assert import_module("diagnostics.pytest_plugin").__doc__

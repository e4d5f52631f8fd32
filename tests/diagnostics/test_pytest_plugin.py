"""The plugin in a pytest of its own: tables in reports, monitors detached, no torch before it is needed."""

from __future__ import annotations

import os
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from subprocess import PIPE, STDOUT, run

import pytest

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


SOURCES = {
    "test_without_torch.py": WITHOUT_TORCH,  # first: the others import it
    "test_failing.py": FAILING,
    "test_helper.py": FAILING.replace("def test_coverage", "def check")
    + "\ndef test_coverage():\n    check()\n",
    "test_monitored.py": MONITORED,
}
RUNS = """
import pytest, sys
for name in sys.argv[1:]:
    print(f"\\0{name}\\0", end="")
    pytest.main(["-p", "diagnostics.pytest_plugin", "-W", "error", name])
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run of pytest prints for each of the files; all run in one process, which imports torch once."""
    folder = tmp_path_factory.mktemp("plugin")
    for name, source in SOURCES.items():
        (folder / name).write_text(source)
    inherited = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    environment = {**inherited, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-c", RUNS, *SOURCES]
    found = run(command, stdout=PIPE, stderr=STDOUT, text=True, cwd=folder, env=environment, check=False)
    _, *parts = found.stdout.split("\0")
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_a_failed_assertion_prints_its_table_and_no_frames_of_the_toolkit(
    outputs: dict[str, str],
) -> None:
    output = outputs["test_failing.py"]
    assert "1 failed" in output
    assert "E   module  gradient" in output
    assert "diagnostics.CheckFailed: COV001 0: a share of 0" in output
    shown = output.partition("short test summary")[0]  # which repeats the message where CI is set
    assert shown.count("what to do") == 1
    assert [line for line in shown.splitlines() if ".py:" in line and "FAILED" not in line] == [
        "test_failing.py:8: in test_coverage"
    ]  # one frame: none of the toolkit, of pytest or of pluggy
    shown = output.partition("= FAILURES =")[2].partition("= short test summary")[0]
    assert len(shown.splitlines()) < 18


def test_a_helper_of_the_tests_keeps_its_frame(outputs: dict[str, str]) -> None:
    lines = outputs["test_helper.py"].splitlines()
    frames = [line for line in lines if ".py:" in line and "FAILED" not in line]
    assert frames == ["test_helper.py:11: in test_coverage", "test_helper.py:8: in check"]


def test_a_failed_test_shows_the_last_step_of_its_monitor(outputs: dict[str, str]) -> None:
    output = outputs["test_monitored.py"]
    assert "1 failed, 1 passed" in output
    assert "- diagnostics -" in output
    assert "0       arrived   1 of 1  1 " in output


def test_it_imports_no_torch_by_itself(outputs: dict[str, str]) -> None:
    assert "1 passed" in outputs["test_without_torch.py"]


def test_it_is_an_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"diagnostics": "diagnostics.pytest_plugin"}
    assert import_module("diagnostics.pytest_plugin").__doc__

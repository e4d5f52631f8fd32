"""The example project as its CI runs it: sound it passes, and with a detached encoder it fails and says why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "examples" / "watched-encoder"


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--rootdir",
        str(folder),
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_it_passes_as_it_is_and_fails_with_a_detached_encoder(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(PROJECT, folder)
    sound = run(folder)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert "2 passed" in sound.stdout

    model = folder / "model.py"
    text = model.read_text("utf-8")
    assert text.count("context = self.encoder(demos)\n") == 1
    model.write_text(text.replace("self.encoder(demos)\n", "self.encoder(demos).detach()\n"), "utf-8")
    broken = run(folder)
    assert broken.returncode == 1
    assert "2 failed" in broken.stdout
    assert "encoder" in broken.stdout
    assert "detach" in broken.stdout
    assert "coverage" in broken.stdout

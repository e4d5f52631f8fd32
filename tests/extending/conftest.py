"""The blocks of docs/extending.md in a folder outside the repository, and the command `etrm` in this process."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import cli
from etrm.investigation.hypotheses import hypothesis_registry

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
Etrm = Callable[..., "Done"]


def python_blocks() -> dict[str, str]:
    """The code of the page by the file that its first line names."""
    found = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return dict(found)


def commands() -> list[str]:
    """The command lines of the page, in their order."""
    found = re.findall(r"```bash\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return [line for block in found for line in block.splitlines()]


@dataclass(frozen=True)
class Done:
    """What a command gave."""

    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the page, which is the current one; with a cache of its own."""
    place = tmp_path / "outside"
    place.mkdir()
    for name, code in python_blocks().items():
        (place / name).write_text(code)
    monkeypatch.chdir(place)
    monkeypatch.setenv("ETRM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(hypothesis_registry, "_REGISTERED", {})
    return place


@pytest.fixture
def etrm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Etrm:
    """Runs `etrm` with some words."""

    def run(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["etrm", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        shown = capsys.readouterr()
        return Done(int(left.value.code or 0), shown.out, shown.err)

    return run

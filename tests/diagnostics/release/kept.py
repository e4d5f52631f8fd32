"""Results of runs in files, so that a release test that was broken off goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from etrm.atomic_files import write_atomically

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "runs" / "release-test"

Task = tuple[str, str, int]
"""Fault, family, seed."""


@dataclass(frozen=True)
class Outcome:
    """The findings of one run.

    Attributes:
        named: Whether the fault was named.
        others: Other findings above a note, as rule and module.
        said: All findings, a line each.
    """

    named: bool
    others: tuple[str, ...]
    said: tuple[str, ...] = ()


def code_hash(folders: Sequence[Path] = (ROOT / "diagnostics", ROOT / "etrm", Path(__file__).parent)) -> str:
    """Of all files that a result depends on, and of torch's version."""
    found = hashlib.sha256(torch.__version__.encode())
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                found.update(f"\0{path.relative_to(folder.parent)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


class Kept:
    """Outcomes of one state of the code, a file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, task: Task) -> Outcome | None:
        """None where it was not run yet."""
        path = self._path(task)
        if not path.exists():
            return None
        held = json.loads(path.read_text(encoding="utf-8"))
        return Outcome(held["named"], tuple(held["others"]), tuple(held["said"]))

    def put(self, task: Task, outcome: Outcome) -> None:
        """Keep it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"named": outcome.named, "others": outcome.others, "said": outcome.said}, indent=1)
        write_atomically(self._path(task), text + "\n")

    def _path(self, task: Task) -> Path:
        return self._folder / f"{'-'.join(map(str, task)).replace(' ', '_')}.json"

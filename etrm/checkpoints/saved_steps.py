"""The folders of a run's checkpoints by name, which are listed without torch."""

from __future__ import annotations

from pathlib import Path

PREFIX = "step_"


def name_of(step: int) -> str:
    """Return the folder name of a step. The names sort by step."""
    return f"{PREFIX}{step:08d}"


def list_saved(folder: Path) -> list[Path]:
    """Return the complete checkpoints in ``folder``, oldest first."""
    return sorted(folder.glob(f"{PREFIX}*")) if folder.is_dir() else []

"""The folders of a run's checkpoints by name, which are listed without torch."""

from __future__ import annotations

from pathlib import Path

PREFIX = "step_"


def name_of(step: int) -> str:
    """Return the folder name of a step. The names sort by step."""
    return f"{PREFIX}{step:08d}"


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint, by its folder name."""
    return int(checkpoint.name.removeprefix(PREFIX))


def list_saved(folder: Path) -> list[Path]:
    """Return the complete checkpoints in ``folder``, oldest first."""
    return sorted(folder.glob(f"{PREFIX}*")) if folder.is_dir() else []


def split_checkpoint(path: Path) -> tuple[Path, Path | None]:
    """Return the run folder of a path, and the checkpoint in it that the path names; None if it is a run folder."""
    named = path.parent.name == "checkpoints" and path.name.startswith(PREFIX)
    return (path.parents[1], path) if named else (path, None)

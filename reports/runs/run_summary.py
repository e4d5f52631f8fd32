"""The lines that end a training run: what it reached, what the toolkit found, and the next command."""

from __future__ import annotations

from pathlib import Path

from reports.runs.followed_run import Followed
from reports.runs.history import WINDOW

NUMBERS = {"loss": "loss", "accuracy_all": "accuracy", "exact_all": "exact"}
"""The names of logged quantities in the summary."""


def summarise_run(folder: Path, parameters: int) -> list[str]:
    """The lines about a run that has finished.

    Args:
        folder: the run folder.
        parameters: the number of parameters of its model.

    Raises:
        EtrmError: the folder cannot be read.
    """
    run = Followed(folder)
    reached = [
        f"{words} {last:.3f} (best {best:.3f})"
        for name, words in NUMBERS.items()
        if (last := run.history.last(name)) is not None and (best := run.history.best(name)) is not None
    ]
    command = "investigate" if run.critical else "evaluate"
    return [
        f"{run.model}, {parameters:,} parameters; means of up to {WINDOW} steps: {', '.join(reached)}",
        f"findings: {', '.join(run.serious) or 'none above a note'}",
        f"next: etrm {command} {folder}",
    ]

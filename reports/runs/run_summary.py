"""The lines that end a training run: what it reached, what the toolkit found, and the next command."""

from __future__ import annotations

import shlex
from pathlib import Path

from etrm.training.monitoring.step_check import read_compared
from etrm.training.scoring.held_out_curve import SOLVED
from etrm.training.task_sets import load_held_out_tasks
from reports.runs.followed_run import Followed
from reports.runs.history import WINDOW
from reports.runs.learning_course import describe_course

NUMBERS = {"loss": "loss", "accuracy_all": "accuracy", "exact_all": "exact"}
"""The names of logged quantities in the summary."""


def summarise_run(folder: Path, parameters: int) -> list[str]:
    """The lines about a run that has finished.

    Args:
        folder: the run folder.
        parameters: the number of parameters of its model.

    Raises:
        EtrmError: the folder cannot be read, or the held-out tasks of a run that was evaluated cannot.
    """
    run = Followed(folder)
    reached = [
        f"{words} {last:.3f} (best {best:.3f})"
        for name, words in NUMBERS.items()
        if (last := run.history.last(name)) is not None and (best := run.history.best(name)) is not None
    ]
    numbers = ", ".join(reached) or "no step is logged"
    command = "investigate" if run.critical else "evaluate"
    compared = read_compared(folder)
    departing = next((step for step in compared if step.departures), None)
    if departing is None:
        equal = (
            f"{len(compared)} compared steps are equal to the reference"
            if compared
            else "no step was compared"
        )
    else:
        first = departing.departures[0]
        command = "investigate"
        equal = f"step {departing.step} departs from the reference at the stage {first.stage.value}: {first.tensor}"
    config = run.config
    evaluated = len(load_held_out_tasks(config)) if SOLVED in run.history.table else None
    course = describe_course(run.history.table, config.train.batch_size, evaluated)
    return [
        f"{run.model}, {parameters:,} parameters; means of up to {WINDOW} steps: {numbers}",
        f"findings: {', '.join(run.serious) or 'none above a note'}",
        f"reference: {equal}",
        f"stage: {course}",
        *_speed(run),
        f"next: etrm {command} {shlex.quote(str(folder))}",
    ]


def _speed(run: Followed) -> list[str]:
    """The line about rows per second and padding; none of a run that did not record how long its steps waited."""
    seconds, loading = sum(run.history.seconds), sum(run.history.loading)
    if not loading or len(run.history.loading) < len(run.history.seconds):
        return []
    rows = run.config.train.batch_size * len(run.history.seconds)
    share = f"{loading / seconds:.1%} of the time"
    padded = run.history.padded
    padding = f"; {sum(padded) / len(padded):.1%} of all positions are padding" if padded else ""
    return [
        f"speed: {rows / seconds:,.0f} rows per second; the loader {rows / loading:,.0f} ({share}){padding}"
    ]

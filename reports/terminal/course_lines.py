"""Where an evaluated run stands in learning, in the terminal."""

from __future__ import annotations

from pathlib import Path

from etrm.config import Config
from etrm.evaluation import EvaluationReport
from reports.runs.history import History
from reports.runs.learning_course import compare_with_unseen, read_stage


def course_lines(folder: Path, config: Config, unseen: EvaluationReport) -> list[str]:
    """The stage of the run, and whether it memorises or infers.

    Args:
        folder: the run folder.
        config: its settings.
        unseen: the answers to tasks that it was not trained on.
    """
    history = History(folder)
    history.update()
    lines = [f"stage of training: {read_stage(history.table).words}"]
    found = compare_with_unseen(history.table, config.train.batch_size, unseen)
    return lines if found is None else [*lines, f"trained and unseen tasks: {found.words}"]

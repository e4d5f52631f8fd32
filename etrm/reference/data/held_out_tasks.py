"""The reference of the choice of the tasks that a run is evaluated on."""

from __future__ import annotations

from etrm.config import Config, is_rules
from etrm.data.sources import TaskSet
from etrm.reference.data.task_files import read_tasks
from etrm.reference.departure import Departure, PipelineStage


def compare_choice(held_out: TaskSet, config: Config) -> list[Departure]:
    """Return a departure if the held-out tasks are not those that the settings choose.

    Chosen are the first ``evaluate.max_tasks``, by id, of the tasks whose grids all fit ``data.max_side``. Rules of the
    rule family are drawn and not chosen, so nothing follows about them.
    """
    section, side = config.evaluate, config.data.max_side
    if is_rules(section.source):
        return []
    fitting = {
        task.id
        for task in read_tasks(section.source, section.subset)
        if all(
            max(*grid.shape) <= side
            for pair in task.pairs
            for grid in (pair.input, pair.output)
            if grid is not None
        )
    }
    wanted = set(sorted(fitting)[: section.max_tasks])
    real = {task.id for task in held_out}
    if real == wanted:
        return []
    wrong = sorted(real ^ wanted)
    where = f"{len(real)} tasks, not {len(wanted)}; first {wrong[0]}"
    return [Departure(PipelineStage.QUERIES, "held-out tasks", len(wrong) / len(wanted), 0.0, where)]

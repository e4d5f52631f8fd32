"""The reference of the choice of the tasks that a run is evaluated on."""

from __future__ import annotations

from etrm.config import Config, is_rules
from etrm.data.sources import TaskSet
from etrm.reference.data.loaded_rows import compare_task_sets
from etrm.reference.data.loader import choose_tasks_of
from etrm.reference.data.rule_family import compare_rule_tasks
from etrm.reference.departure import Departure, PipelineStage


def compare_choice(held_out: TaskSet, config: Config) -> list[Departure]:
    """Return a departure if the held-out tasks are not those that the settings choose, by id and grids.

    Chosen are the first ``evaluate.max_tasks``, by id, of the tasks whose grids all fit ``data.max_side``. Tasks of the
    rule family are drawn and not chosen: they must be what their names say.
    """
    section, side = config.evaluate, config.data.max_side
    if is_rules(section.source):
        return compare_rule_tasks(
            held_out, PipelineStage.QUERIES, count=section.max_tasks, demos=section.demos, max_side=side
        )
    wanted = choose_tasks_of(section.source, section.subset, side, section.max_tasks)
    return compare_task_sets(held_out, wanted, PipelineStage.QUERIES, "held-out tasks")

"""The reference of the choice of the tasks that a run is evaluated on."""

from __future__ import annotations

from hashlib import sha256

from etrm.config import Config, is_rules
from etrm.data.sources import TaskSet
from etrm.reference.data.loaded_rows import compare_task_sets
from etrm.reference.data.loader import choose_tasks_of
from etrm.reference.departure import Departure, PipelineStage

HELD_OUT = 4
"""One of this many rules of the rule family is held out."""


def compare_rules(tasks: TaskSet, stage: PipelineStage) -> list[Departure]:
    """Return a departure at a stage if tasks of the rule family have rules of the other subset.

    Whether a rule is held out follows from the digest of its name, which is in the id of a task after its number.
    """
    wrong = [
        task.id
        for task in tasks
        if (sha256(task.id.partition("-")[2].encode()).digest()[0] % HELD_OUT == 0)
        != (tasks.subset == "evaluation")
    ]
    if not wrong:
        return []
    where = f"not of subset {tasks.subset}; first {wrong[0]}"
    return [Departure(stage, "rules of the tasks", len(wrong) / len(tasks), 0.0, where)]


def compare_choice(held_out: TaskSet, config: Config) -> list[Departure]:
    """Return a departure if the held-out tasks are not those that the settings choose, by id and grids.

    Chosen are the first ``evaluate.max_tasks``, by id, of the tasks whose grids all fit ``data.max_side``. Tasks of the
    rule family are drawn and not chosen: only the subset of their rules is compared.
    """
    section, side = config.evaluate, config.data.max_side
    if is_rules(section.source):
        return compare_rules(held_out, PipelineStage.QUERIES)
    wanted = choose_tasks_of(section.source, section.subset, side, section.max_tasks)
    return compare_task_sets(held_out, wanted, PipelineStage.QUERIES, "held-out tasks")

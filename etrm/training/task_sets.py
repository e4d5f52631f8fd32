"""The task sets of a run: those that it trains on, and those that it is evaluated on."""

from __future__ import annotations

from etrm.config import Config, is_rules
from etrm.data import TaskSet, check_leakage, choose_training_tasks, load_tasks


def load_training_tasks(config: Config) -> TaskSet:
    """The tasks of the data section, without those that the evaluate section selects.

    Raises:
        DataError: the tasks cannot be read.
        LeakageError: a task is on both sides and is not in ``evaluate.allow_trained``.
    """
    tasks = choose_training_tasks(config.data)
    if "all" not in config.evaluate.allow_trained:
        check_leakage(tasks, load_held_out_tasks(config), config.evaluate.allow_trained)
    return tasks


def load_held_out_tasks(config: Config) -> TaskSet:
    """The tasks that the evaluate section selects."""
    asked = config.evaluate
    return load_tasks(asked.source, asked.subset, config.data.max_side, asked.max_tasks, asked.demos)


def load_whole_set(config: Config, held_out: TaskSet) -> TaskSet:
    """All tasks of the data set that the held-out tasks are taken from, however large and however many.

    The rule family has no end: of it, the held-out tasks are the whole.

    Raises:
        DataError: the tasks cannot be read.
    """
    section = config.evaluate
    return held_out if is_rules(section.source) else load_tasks(section.source, section.subset)

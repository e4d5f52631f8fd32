"""The tasks of a run: what it trains on, and what it is asked."""

from __future__ import annotations

from etrm.config import Config
from etrm.data import TaskSet, check_leakage, chosen_tasks, load_tasks


def training_tasks(config: Config) -> TaskSet:
    """The tasks of the data section, none of which the evaluate section asks.

    Raises:
        DataError: the tasks cannot be read.
        LeakageError: a task stands on both sides and is not in ``evaluate.allow_trained``.
    """
    tasks = chosen_tasks(config.data)
    if "all" not in config.evaluate.allow_trained:
        check_leakage(tasks, held_out_tasks(config), config.evaluate.allow_trained)
    return tasks


def held_out_tasks(config: Config) -> TaskSet:
    """The tasks that the evaluate section asks."""
    asked = config.evaluate
    return load_tasks(asked.source, asked.subset, config.data.max_side, asked.max_tasks)

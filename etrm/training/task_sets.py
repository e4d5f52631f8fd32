"""The task sets of a run: those that it trains on, and those that it is evaluated on."""

from __future__ import annotations

from typing import Any

from etrm.config import NO_CURRICULUM, NO_STREAM, Config, is_rules, with_settings
from etrm.data import TaskSet, check_leakage, choose_training_tasks, find_leakage, load_tasks


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


OTHER_TASKS = "choose other held-out tasks with --set evaluate.source=... or evaluate.subset=..."
"""What can be done where a score is needed and the outputs of the held-out tasks are unknown."""


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


def list_stream_tasks(config: Config, count: int) -> dict[str, Any]:
    """The data settings of a run on listed tasks of the rule family instead of a stream.

    They are the first ones that are not held out: a stream has no listed task, so its run may be evaluated on any.

    Args:
        config: the config of a run on a stream.
        count: the number of tasks.
    """
    held_out = load_held_out_tasks(config)
    listed = with_settings(config, data={**NO_CURRICULUM, **NO_STREAM, "max_tasks": count + len(held_out)})
    same = config.data.subset == config.evaluate.subset and is_rules(config.evaluate.source)
    leaked = find_leakage(choose_training_tasks(listed.data), held_out).ids if same else ()
    return {**NO_STREAM, "max_tasks": count + len(leaked), "exclude": leaked}

"""The tasks of a run on listed tasks instead of a stream."""

from __future__ import annotations

from etrm.config import Config, load, with_settings
from etrm.data import find_leakage
from etrm.investigation.comparison.screening import few_tasks
from etrm.investigation.runs.pretrained_decoder import trm_config
from etrm.training.task_sets import list_stream_tasks, load_held_out_tasks, load_training_tasks


def streamed(subset: str) -> Config:
    """The preset rules, evaluated on the first five listed tasks of a subset."""
    return with_settings(load("rules"), evaluate={"subset": subset, "max_tasks": 5})


def test_listed_tasks_of_a_stream_are_not_held_out() -> None:
    """The tasks of a stream are no listed ones, so a run on it may be evaluated on those of the same subset."""
    config = streamed("training")
    listed = with_settings(config, data=list_stream_tasks(config, 7))
    tasks = load_training_tasks(listed)
    assert len(tasks) == 7
    assert not find_leakage(tasks, load_held_out_tasks(listed)).ids
    for shorter in (trm_config(config, 10), few_tasks(config, 20)):
        assert len(load_training_tasks(shorter)) >= 10


def test_nothing_is_left_out_where_the_subsets_differ() -> None:
    settings = list_stream_tasks(streamed("evaluation"), 7)
    assert (settings["max_tasks"], settings["exclude"], settings["stream"]) == (7, (), None)

"""The formulas of a run on every evaluated task, next to a search over the same library without training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from etrm.checkpoints.run_folder import read_config
from etrm.config import Changes, SymbolicConfig, with_settings
from etrm.data import Task, check_leakage
from etrm.evaluation import check_outputs
from etrm.symbolic.formula import Rule
from etrm.symbolic.library import Library
from etrm.symbolic.search import Array, apply_crisply, rank_rules
from etrm.training.scoring.explain_run import ExplainedTask, RunExplainer
from etrm.training.scoring.opened_run import check_sections
from etrm.training.task_sets import load_held_out_tasks


@dataclass(frozen=True, eq=False)
class SurveyedTask:
    """One evaluated task.

    Attributes:
        explained: the answers of the run, with their formulas.
        searched: the rule that explains the demonstrations best, found without training; None if there is none.
        solved_by_search: whether this rule answers all queries.
        solved_by_copy: whether a copy of the input answers all queries.
    """

    explained: ExplainedTask
    searched: Rule | None
    solved_by_search: bool
    solved_by_copy: bool


class FormulaSurvey:
    """The evaluated tasks of a finished run; iterating explains one after the other.

    Args:
        folder: the run folder.
        settings: settings of the evaluate section to change, as :func:`etrm.config.with_settings` takes them.

    Attributes:
        config: the settings of the run, with those of the evaluation.
        step: the step of the checkpoint.
        tasks: the evaluated tasks.
        searched_families: the families of formulas that are searched: those of the run that need no training, or all
            such families if the run has none.

    Raises:
        ConfigError: a setting was decided in training.
        LeakageError: an evaluated task was trained on and is not in ``evaluate.allow_trained``.
        DataError: a test output is unknown.
        EtrmError: the run is not a finished one of the symbolic solver.
    """

    def __init__(self, folder: Path, settings: Changes) -> None:
        check_sections(settings)
        self._explainer = RunExplainer(folder, with_settings(read_config(folder), **settings).evaluate)
        self._explainer.require_finished()
        self.step = self._explainer.step
        self.config = with_settings(self._explainer.config, **settings)
        self.tasks = load_held_out_tasks(self.config)
        check_outputs(self.tasks)
        if "all" not in self.config.evaluate.allow_trained:
            check_leakage(self._explainer.trained, self.tasks, self.config.evaluate.allow_trained)
        fixed = [name for name in self.config.model.symbolic.families if name != "learned"]
        library = SymbolicConfig(families=tuple(fixed)) if fixed else SymbolicConfig()
        self.searched_families = library.families
        self._library = Library.of(library)

    def __iter__(self) -> Iterator[SurveyedTask]:
        for task in self.tasks:
            explained = self._explainer.explain(task)
            rule = self._search(task)
            copied = _are_answers([pair.input for pair in task.tests], task)
            yield SurveyedTask(explained, rule, rule is not None and _solves(rule, task), copied)

    def _search(self, task: Task) -> Rule | None:
        demos = [(pair.input, pair.output) for pair in task.demos if pair.output is not None]
        ranked = rank_rules(demos, self._library)
        return ranked[0].rule if ranked else None


def _solves(rule: Rule, task: Task) -> bool:
    return _are_answers(apply_crisply(rule, [pair.input for pair in task.tests]), task)


def _are_answers(grids: Sequence[Array], task: Task) -> bool:
    """Return whether grids are the true outputs of all queries of a task."""
    outputs = [pair.output for pair in task.tests if pair.output is not None]
    return all(np.array_equal(grid, output) for grid, output in zip(grids, outputs, strict=True))

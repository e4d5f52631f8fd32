"""Explain the answers of a run of the symbolic solver to one task."""

from __future__ import annotations

import difflib
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from etrm.checkpoints.run_folder import read_config
from etrm.checkpoints.saved_steps import list_saved, step_of
from etrm.config.evaluate import EvaluateConfig
from etrm.config.model import SYMBOLIC
from etrm.data import Pair, Sample, Task, TaskSet, build_evaluation_samples
from etrm.errors import CheckpointError, ConfigError, DataError
from etrm.model.symbolic_variant import SymbolicVariant
from etrm.symbolic.batches import read_demonstrations, read_queries
from etrm.symbolic.formula import TRUE, Where
from etrm.symbolic.rated_rules import RatedRule, rate_rules
from etrm.training.scoring.predictor import load_model, make_batch
from etrm.training.task_sets import load_held_out_tasks

Mask = npt.NDArray[np.bool_]
Truths = npt.NDArray[np.floating]
SHOWN = 5
"""Number of task ids that an error lists."""
HOLDS = 0.5
"""Truth above which a guard counts as met: the painted colour is then likelier than the previous one."""


@dataclass(frozen=True, eq=False)
class ExplainedQuery:
    """The answer to one query.

    Attributes:
        pair: the query, with its true output if that is known.
        rules: the best templates; the first one gives the answer.
    """

    pair: Pair
    rules: tuple[RatedRule, ...]

    @property
    def solved(self) -> bool | None:
        """Whether the answer is right; None if the true output is unknown."""
        known = self.pair.output
        return None if known is None else np.array_equal(self.rules[0].answer, known)

    @property
    def guard(self) -> Truths | None:
        """(rows, columns) truth of the guard in each cell of the query; None of a rule that paints everywhere."""
        rule = self.rules[0].rule
        return None if isinstance(rule, Where) and rule.guard == TRUE else self.rules[0].guard

    @property
    def guarded(self) -> Mask | None:
        """(rows, columns) bool, cells of the query in which the guard holds; None of a rule without a guard."""
        return None if self.guard is None else self.guard > HOLDS

    @property
    def wrong(self) -> Mask | None:
        """(rows, columns) bool, wrong cells of the answer; None if its size is wrong or the true output unknown."""
        answer, known = self.rules[0].answer, self.pair.output
        return answer != known if known is not None and answer.shape == known.shape else None


@dataclass(frozen=True, eq=False)
class ExplainedTask:
    """The answers of a run to the queries of a task.

    Attributes:
        task: the task.
        step: the step of the checkpoint.
        trained: whether the run was trained on the task.
        templates: the number of templates that the run chooses from.
        queries: the answer to each test pair.
    """

    task: Task
    step: int
    trained: bool
    templates: int
    queries: tuple[ExplainedQuery, ...]

    @property
    def solved(self) -> bool:
        """Whether the answers to all queries are known to be right."""
        return all(query.solved for query in self.queries)

    @property
    def fit(self) -> float:
        """Mean share of cells of the demonstrations that the chosen rules get right."""
        return float(np.mean([query.rules[0].fits for query in self.queries]))


class RunExplainer:
    """A checkpoint of a run of the symbolic solver, which explains its answers.

    Args:
        folder: the run folder.
        evaluation: the settings that choose the checkpoint and its weights; None for those of the run.

    Attributes:
        config: the settings that the run used.
        trained: the tasks that it was trained on.
        step: the step of the checkpoint.

    Raises:
        ConfigError: the run is not one of the symbolic solver.
        EtrmError: there is no run, or no whole checkpoint.
    """

    def __init__(self, folder: Path, evaluation: EvaluateConfig | None = None) -> None:
        requested = read_config(folder)
        if requested.model.variant != SYMBOLIC:
            raise ConfigError(
                "symbolic.other-variant",
                f"{folder} is no run of the symbolic solver, so no formula explains its answers",
                got=f"model.variant {requested.model.variant}",
                allowed=f"model.variant {SYMBOLIC}",
                next_step="etrm train --set model.variant=symbolic makes one",
            )
        self._folder = folder
        chosen = evaluation or requested.evaluate
        model, self.config, self.trained, self.step = load_model(folder, chosen.weights, chosen.checkpoint)
        assert isinstance(model, SymbolicVariant)
        self._model = model

    def require_finished(self) -> None:
        """Refuse a run that has not done all of its steps.

        Raises:
            CheckpointError: it has not.
        """
        steps = self.config.train.steps
        newest = max(
            (step_of(saved) for saved in list_saved(self._folder / "checkpoints")), default=self.step
        )
        if newest < steps:
            raise CheckpointError(
                "symbolic.unfinished-run",
                f"the run {self._folder} is not finished",
                got=f"its newest checkpoint is of step {newest}",
                allowed=f"step {steps}",
                next_step=f"etrm train --resume --out {shlex.quote(str(self._folder))}",
            )

    def find(self, name: str) -> Task:
        """Return a task that was trained on or is held out.

        Raises:
            DataError: there is none of this id. The error names similar ones.
        """
        held_out = load_held_out_tasks(self.config)
        known = {task.id: task for task in (*held_out, *self.trained)}
        if name in known:
            return known[name]
        close = [one for one in known if name in one] or difflib.get_close_matches(name, known)
        shown = close or [task.id for task in held_out]
        raise DataError(
            "symbolic.unknown-task",
            f"the run {self._folder} has no task {name!r}, neither trained on nor held out",
            allowed=", ".join(shown[:SHOWN])
            + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""),
            next_step=f"etrm symbolic report {shlex.quote(str(self._folder))}, which lists the held-out tasks",
        )

    def explain(self, task: Task) -> ExplainedTask:
        """Explain the answer to every query of a task."""
        samples = build_evaluation_samples(
            TaskSet((task,), "", ""), self.config.data, 1, self.config.train.seed
        )
        queries = [self._explain(sample, pair) for sample, pair in zip(samples, task.tests, strict=True)]
        trained = any(other.id == task.id for other in self.trained)
        templates = self._model.core.templates.count
        return ExplainedTask(task, self.step, trained, templates, tuple(queries))

    @torch.no_grad()
    def _explain(self, sample: Sample, pair: Pair) -> ExplainedQuery:
        model, batch = self._model, make_batch(self._model, [sample])
        context = model.context_policy(model, model.initial_carry(1), batch).context[0, 0]
        demos, query = read_demonstrations(batch.demos), read_queries(batch).grids
        return ExplainedQuery(pair, rate_rules(model.core, context, demos, query))


def explain_run(folder: Path, task: str) -> ExplainedTask:
    """Explain what a run makes of a held-out or training task, with the checkpoint of its evaluations.

    Args:
        folder: the run folder.
        task: the id of the task.

    Raises:
        EtrmError: see :class:`RunExplainer` and :meth:`RunExplainer.find`.
    """
    explainer = RunExplainer(folder)
    return explainer.explain(explainer.find(task))

"""Explain the answers of a run of the symbolic solver to one task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from etrm.checkpoints.run_folder import read_config
from etrm.config import Config
from etrm.config.model import SYMBOLIC
from etrm.data import Pair, Task, TaskSet, build_evaluation_samples
from etrm.errors import ConfigError
from etrm.model.symbolic_variant import SymbolicVariant
from etrm.symbolic.batches import read_demonstrations, read_queries
from etrm.symbolic.rated_rules import RatedRule, rate_rules
from etrm.training.scoring.predictor import load_model, make_batch
from etrm.training.task_sets import load_held_out_tasks

Mask = npt.NDArray[np.bool_]
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
    def guarded(self) -> Mask | None:
        """(rows, columns) bool, cells of the query in which the guard holds; None of a rule without a guard."""
        guard = self.rules[0].guard
        return None if guard is None else guard > HOLDS

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
        queries: the answer to each test pair.
    """

    task: Task
    step: int
    trained: bool
    queries: tuple[ExplainedQuery, ...]


def explain_run(folder: Path, task: str) -> ExplainedTask:
    """Explain what the newest checkpoint of a run makes of a held-out or training task.

    Args:
        folder: the run folder.
        task: the id of the task.

    Raises:
        ConfigError: the run is not one of the symbolic solver.
        DataError: the run has no such task.
        EtrmError: there is no run, or no whole checkpoint.
    """
    variant = read_config(folder).model.variant
    if variant != SYMBOLIC:
        raise ConfigError(
            "symbolic.other-variant",
            f"{folder} is no run of the symbolic solver, so no formula explains its answers",
            got=f"model.variant {variant}",
            allowed=f"model.variant {SYMBOLIC}",
        )
    model, config, trained, step = load_model(folder, read_config(folder).evaluate.weights)
    assert isinstance(model, SymbolicVariant)
    found, was_trained = _find(task, config, trained)
    samples = build_evaluation_samples(TaskSet((found,), "", ""), config.data, 1, config.train.seed)
    queries = []
    for sample, pair in zip(samples, found.tests, strict=True):
        batch = make_batch(model, [sample])
        with torch.no_grad():
            context = model.context_policy(model, model.initial_carry(1), batch).context[0, 0]
        demos, query = read_demonstrations(batch.demos), read_queries(batch).grids
        queries.append(ExplainedQuery(pair, rate_rules(model.core, context, demos, query)))
    return ExplainedTask(found, step, was_trained, tuple(queries))


def _find(name: str, config: Config, trained: TaskSet) -> tuple[Task, bool]:
    """The task of an id, and whether it was trained on."""
    if any(task.id == name for task in trained):
        return trained.get(name), True
    return load_held_out_tasks(config).get(name), False

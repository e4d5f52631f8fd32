"""The score of a run on tasks that it never trains on, measured while it trains, and the best checkpoint by it."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.format import Checkpoint
from etrm.checkpoints.run_folder import read_metrics
from etrm.config import Config
from etrm.data import TaskSet
from etrm.data.episodes import find_puzzle_rows
from etrm.evaluation import EvaluationReport, check_outputs
from etrm.model.variant import Variant
from etrm.training.recipe import Recipe
from etrm.training.scoring.predictor import BEST, evaluate_tasks, make_predictor
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.train_state import TrainState

SOLVED, TOKENS = "held_out.solved", "held_out.token_accuracy"
"""Keys of ``metrics.jsonl``: the share of evaluation tasks solved at the first attempt, and of right tokens."""


@dataclass(frozen=True)
class HeldOutScore:
    """One point of the curve.

    Attributes:
        solved: the share of tasks solved at the first attempt.
        token_accuracy: the share of scored tokens that are right, a mean over the samples.
        seconds: the duration of the evaluation.
        queries: the number of evaluated samples, every vote counted.
    """

    solved: float
    token_accuracy: float
    seconds: float
    queries: int

    @classmethod
    def of(cls, report: EvaluationReport, seconds: float) -> HeldOutScore:
        """The point of an evaluation that took some seconds."""
        first = report.pass_at[1]
        return cls(first.solved / first.asked, report.token_accuracy, seconds, report.samples)

    @property
    def metrics(self) -> dict[str, float]:
        """The entries of ``metrics.jsonl``."""
        return {SOLVED: self.solved, TOKENS: self.token_accuracy}

    @property
    def timing(self) -> dict[str, float]:
        """The entries of ``timing.jsonl``."""
        return {"evaluation_seconds": self.seconds, "queries_per_second": self.queries / self.seconds}

    @property
    def order(self) -> tuple[float, float]:
        """What the best score is the largest of."""
        return self.solved, self.token_accuracy


class HeldOutCurve:
    """Evaluates a run every ``evaluate.every`` steps, as ``etrm evaluate`` would; training does not notice.

    Args:
        config: the settings of the run.
        recipe: the functions of the run, whose evaluator is used.
        model: the model before anything watches it; a copy gets the weights to evaluate.
        trained: the training tasks.
        leader: whether this process evaluates; the others only take part in capturing the state.

    Raises:
        DataError: an output of the evaluation tasks is unknown, or the run has a puzzle table without rows for them.

    Attributes:
        best: the best score so far, None before the first one.
    """

    def __init__(
        self, config: Config, recipe: Recipe, model: Variant, trained: TaskSet, leader: bool = True
    ) -> None:
        self._config, self._recipe, self._trained = config, recipe, trained
        self._model = deepcopy(model).eval() if leader and config.evaluate.every else None
        self.best: tuple[float, float] | None = None
        if config.evaluate.every:  # before a step is done that would be lost
            held_out = load_held_out_tasks(config)
            check_outputs(held_out)
            if not config.model.has_encoder:
                find_puzzle_rows(held_out, config.data, config.evaluate.augmentations, trained)

    def due(self, step: int) -> bool:
        """Whether the run is evaluated after a step; all processes agree."""
        every = self._config.evaluate.every
        return every is not None and (step % every == 0 or step == self._config.train.steps)

    def score(self, state: TrainState) -> HeldOutScore | None:
        """Evaluate the run if that is due, and keep its checkpoint in :data:`BEST` if no earlier one was as good.

        All processes must call this; only the leader gets a score.

        Raises:
            CheckpointError: the checkpoint cannot be written.
            DataError: the evaluation tasks cannot be read.
        """
        if not self.due(state.step):
            return None
        captured = state.capture()
        score = None if self._model is None else self._measure(self._model, captured)
        state.world.wait_for_all()
        if score is None:
            return None
        if self.best is None or score.order > self.best:
            self.best = score.order
            if state.folder is not None:
                checkpoints.save(state.folder.path / BEST, captured, keep=1)
        return score

    def _measure(self, model: Variant, captured: Checkpoint) -> HeldOutScore:
        began = time.perf_counter()
        with torch.random.fork_rng(devices=()):
            self._recipe.load_weights(model, captured, self._config.evaluate.weights)
            model.anneal(captured.step / self._config.train.steps)
            found = self._evaluate(model)
        return HeldOutScore.of(found, time.perf_counter() - began)

    def _evaluate(self, model: Variant) -> EvaluationReport:
        config = self._config
        predictor = make_predictor(model, config.evaluate)
        return evaluate_tasks(self._recipe, predictor, load_held_out_tasks(config), config, self._trained)

    def recall(self, folder: Path, size: int) -> None:
        """Set the best score of a run that resumes to that of its logged steps, the first bytes of its metrics."""
        if self._model is not None:
            scores = [(line[SOLVED], line[TOKENS]) for line in read_metrics(folder, size) if SOLVED in line]
            self.best = max(scores, default=None)

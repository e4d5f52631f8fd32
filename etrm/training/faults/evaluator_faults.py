"""Faults of H6: the evaluator reports wrong scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from etrm.checkpoints.format import Checkpoint, WeightsKind
from etrm.config import SIDE, DataConfig
from etrm.data import TaskSet, build_evaluation_samples, load_tasks
from etrm.data.task import Grid
from etrm.data.tokens import PAD, read_grid
from etrm.errors import ConfigError
from etrm.evaluation import EvaluationReport, PassK, Prediction, Predictor, binomial_interval
from etrm.evaluation.misleading import fit_true_sizes, make_pair_tasks
from etrm.evaluation.passk import KS, predict, score
from etrm.model.symbolic_variant import SymbolicVariant
from etrm.model.variant import Variant, with_noise
from etrm.symbolic.formula import has_quantifier
from etrm.symbolic.semantics import Semantics
from etrm.training.faults.seam import Fault, change_model, wrap_policy
from etrm.training.recipe import Recipe


@dataclass(frozen=True)
class _Answers:
    """The predictions of an evaluation, before they are scored."""

    tasks: TaskSet
    predictions: list[Prediction | None]
    samples: Any


def _answer(
    tasks: TaskSet,
    predictor: Predictor,
    *,
    augmentations: int,
    data: DataConfig | None = None,
    seed: int = 0,
    variant: str = "etrm",
    trained: TaskSet | None = None,
    batch_size: int = 64,
    **_: Any,
) -> _Answers:
    layout = DataConfig() if data is None else data
    samples = build_evaluation_samples(tasks, layout, augmentations, seed, variant=variant, trained=trained)
    return _Answers(tasks, predict(samples, predictor, batch_size), samples)


def _divide_by_all(recipe: Recipe) -> Recipe:
    def evaluate(tasks: TaskSet, predictor: Predictor, **options: Any) -> EvaluationReport:
        report = recipe.evaluate(tasks, predictor, **options)
        whole = len(load_tasks(tasks.source, tasks.subset))
        found = {k: _over(passed, max(whole, passed.asked)) for k, passed in report.pass_at.items()}
        return replace(report, pass_at=found)

    return replace(recipe, evaluate=evaluate)


def _over(passed: PassK, asked: int) -> PassK:
    low, high = binomial_interval(passed.solved, asked)
    return replace(passed, score=passed.score * passed.asked / asked, asked=asked, low=low, high=high)


class _AsPredicted(Prediction):
    """A vote for the predicted grid without undoing its augmentation."""

    @cached_property
    def grid(self) -> Grid:
        canvas = np.full((SIDE, SIDE), PAD, dtype=np.int64)
        canvas[np.divmod(self.sample.positions, SIDE)] = self.tokens
        return read_grid(canvas)


def _no_inverse(recipe: Recipe) -> Recipe:
    def evaluate(
        tasks: TaskSet, predictor: Predictor, *, ks: Sequence[int] = KS, **options: Any
    ) -> EvaluationReport:
        asked = _answer(tasks, predictor, **options)
        votes = [p and _AsPredicted(p.sample, p.tokens, p.q_halt) for p in asked.predictions]
        return score(tuple(tasks), asked.samples, votes, ks)

    return replace(recipe, evaluate=evaluate)


def _stale_votes(recipe: Recipe) -> Recipe:
    kept: dict[str, list[Prediction]] = {}

    def evaluate(
        tasks: TaskSet, predictor: Predictor, *, ks: Sequence[int] = KS, **options: Any
    ) -> EvaluationReport:
        asked = _answer(tasks, predictor, **options)
        for prediction in asked.predictions:
            if prediction is not None:
                kept.setdefault(prediction.sample.task_id, []).append(prediction)
        votes = [vote for task in tasks for vote in kept.get(task.id, [])]
        return score(tuple(tasks), [vote.sample for vote in votes], votes, ks)

    return replace(recipe, evaluate=evaluate)


def _true_size_given(recipe: Recipe) -> Recipe:
    def evaluate(tasks: TaskSet, predictor: Predictor, **options: Any) -> EvaluationReport:
        return recipe.evaluate(tasks, fit_true_sizes(predictor), **options)

    return replace(recipe, evaluate=evaluate)


def _pairs_for_tasks(recipe: Recipe) -> Recipe:
    def evaluate(tasks: TaskSet, predictor: Predictor, **options: Any) -> EvaluationReport:
        return recipe.evaluate(make_pair_tasks(tasks), predictor, **options)

    return replace(recipe, evaluate=evaluate)


def _noisy_evaluation(recipe: Recipe) -> Recipe:
    return wrap_policy(recipe, with_noise)


class _OneCell(Semantics):
    """Semantics whose quantified variables have the first cell of the canvas as their only value."""

    def forall(self, truths: Tensor, mask: Tensor) -> Tensor:
        """The truth for that cell, and so for :meth:`exists`."""
        return super().forall(truths[..., :1], mask[..., :1])


def _quantifier_one_cell(recipe: Recipe) -> Recipe:
    def change(model: Variant) -> None:
        assert isinstance(model, SymbolicVariant)
        templates = model.core.templates
        if not any(map(has_quantifier, templates.conditions)):
            raise ConfigError(
                "fault.needs-quantifiers",
                "the fault quantifier-one-cell changes nothing, because no formula has a quantifier",
                got=", ".join(model.config.symbolic.families),
                allowed="a library with relational, topological or learned formulas",
                next_step="--set 'model.symbolic.families=[\"relational\"]'",
            )
        templates.semantics = _OneCell(**vars(templates.semantics))

    return change_model(recipe, change)


def _eval_raw(recipe: Recipe) -> Recipe:
    def load(model: Variant, checkpoint: Checkpoint, kind: WeightsKind) -> None:
        recipe.load_weights(model, checkpoint, "raw")

    return replace(recipe, load_weights=load)


FAULTS = (
    Fault(
        "divide-by-all",
        "the number of solved tasks is divided by the size of the whole set, evaluated or not",
        "H6",
        "Low-performance investigation: an evaluator that divided by the wrong number",
        _divide_by_all,
    ),
    Fault(
        "no-inverse",
        "votes are counted without undoing the augmentation",
        "H6",
        "Low-performance investigation, hypothesis 6",
        _no_inverse,
    ),
    Fault(
        "stale-votes",
        "votes of earlier evaluations are counted again",
        "H6",
        "the published evaluator keeps its votes between calls",
        _stale_votes,
    ),
    Fault(
        "eval-raw",
        "raw weights are evaluated and reported as averaged",
        "H6",
        "Low-performance investigation, hypothesis 6",
        _eval_raw,
    ),
    Fault(
        "true-size-given",
        "answers are cropped or padded to the size of the true output",
        "H6",
        "Training loss analysis: the accuracy of its code",
        _true_size_given,
    ),
    Fault(
        "pairs-for-tasks",
        "solved demonstration pairs are counted instead of tasks with all test queries solved",
        "H6",
        "Training loss analysis: the binary accuracy of its code",
        _pairs_for_tasks,
    ),
    Fault(
        "noisy-evaluation",
        "evaluation adds noise to the context, so the same model gives other answers at every call",
        "H6",
        "Training loss analysis: its selector draws Gumbel noise in evaluation",
        _noisy_evaluation,
    ),
    Fault(
        "quantifier-one-cell",
        "quantifiers have one cell as their domain, so every cell is evaluated as that one",
        "H6",
        "Training loss analysis: the quantifiers of its code have no domain",
        _quantifier_one_cell,
        models="symbolic",
    ),
)

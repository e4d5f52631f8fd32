"""Recorded evaluations: the healthy evaluator departs nowhere, and a planted change is named at its stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from etrm.batch import IGNORE, Batch
from etrm.config import Config, DataConfig, list_presets, with_settings
from etrm.data import Sample, TaskSet
from etrm.data.task import Grid
from etrm.data.tokens import EOS
from etrm.evaluation import Candidate, EvaluationReport, Prediction, Predictor, passk, submission, voting
from etrm.evaluation.passk import PassK, QueryResult
from etrm.investigation.reference_comparison import recorded_evaluation
from etrm.investigation.reference_comparison.recorded_evaluation import (
    choose_held_out,
    compare_loaded_weights,
    record_known_answers,
    record_own_answers,
)
from etrm.model.act import Carry
from etrm.model.recursive import encode_every_step
from etrm.model.variant import Given, Variant
from etrm.reference.departure import Departure, NotCovered, PipelineStage
from etrm.reference.evaluation.answers import compare_answers
from etrm.reference.evaluation.evaluation_stages import RecordedEvaluation, compare_evaluation
from etrm.training.recipe import Recipe
from etrm.training.scoring.predictor import evaluate_tasks
from etrm.training.trainer import Trainer
from tests.reference.invented import few_of
from tests.sampled import one_in

Patch = Callable[[pytest.MonkeyPatch], None]


def build_trainer(config: Config) -> Trainer:
    return Trainer(with_settings(config, monitor={"enabled": False}))


def compare_all(evaluations: Sequence[RecordedEvaluation | NotCovered]) -> list[Departure]:
    return [
        found
        for recorded in evaluations
        if not isinstance(recorded, NotCovered)
        for found in compare_evaluation(recorded)
    ]


@pytest.mark.parametrize("preset", one_in(2, list_presets()))
def test_the_evaluator_of_every_preset_departs_nowhere(preset: str) -> None:
    trainer = build_trainer(few_of(preset, evaluate={"max_tasks": 4, "augmentations": 1}))
    evaluations = [*record_known_answers(trainer), record_own_answers(trainer)]
    assert compare_all(evaluations) == []
    assert not any(isinstance(recorded, NotCovered) for recorded in evaluations)


@pytest.mark.parametrize(
    "changes", [{"data": {"canvas": "published", "max_demos": 2}}, {"data": {"max_side": 30}}]
)
def test_the_evaluator_of_every_layout_departs_nowhere(changes: dict[str, Any]) -> None:
    trainer = build_trainer(few_of("small", **changes))
    assert compare_all(record_known_answers(trainer)) == []


def test_answers_of_puzzle_ids_that_were_not_trained_are_not_covered() -> None:
    unseen = few_of("smoke", model={"variant": "trm"}, data={"augmentations": 2})
    found = record_own_answers(build_trainer(unseen))
    assert isinstance(found, NotCovered)
    assert found.code == "reference.no-puzzle-ids"


def test_puzzle_ids_that_were_trained_depart_nowhere() -> None:
    evaluate = {"subset": "training", "allow_trained": ("all",), "augmentations": 3, "max_tasks": 10}
    seen = few_of("smoke", model={"variant": "trm"}, data={"augmentations": 3}, evaluate=evaluate)
    recorded = record_own_answers(build_trainer(seen))
    assert isinstance(recorded, RecordedEvaluation)
    assert {answer.row.puzzle_id for answer in recorded.answers} == set(range(3 * 4))
    assert compare_evaluation(recorded) == []


# -- planted changes ------------------------------------------------------------------------------


def test_contexts_that_are_kept_for_the_next_batch_are_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few tasks would be a single batch."""
    trainer, kept = (
        build_trainer(few_of("smoke", evaluate={"max_tasks": 4, "augmentations": 2})),
        list[Given](),
    )

    def keep(model: Variant, carry: Carry, batch: Batch) -> Given:
        kept.append(encode_every_step(model, carry, batch))
        return replace(kept[-1], context=kept[0].context[torch.arange(batch.size) % len(kept[0].context)])

    monkeypatch.setattr(trainer.model, "context_policy", keep)
    weights = trainer.model.state_dict()
    torch.nn.init.normal_(weights["core.q_head.weight"])  # of zeros, it reads nothing
    own = record_own_answers(trainer)
    assert isinstance(own, RecordedEvaluation)
    found = compare_answers(weights, trainer.config.model, own.answers, early=False)
    assert {one.stage for one in found} == {PipelineStage.ANSWERS}


def test_augmentations_of_another_seed_than_the_run_depart_at_the_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def draw_otherwise(
        recipe: Recipe, predictor: Predictor, tasks: TaskSet, config: Config, trained: TaskSet
    ) -> EvaluationReport:
        other = with_settings(config, train={"seed": config.train.seed + 1})
        return evaluate_tasks(recipe, predictor, tasks, other, trained)

    trainer = build_trainer(few_of("smoke", evaluate={"max_tasks": 4, "augmentations": 3}))
    monkeypatch.setattr(recorded_evaluation, "evaluate_tasks", draw_otherwise)
    found = compare_all([record_own_answers(trainer)])
    assert found[0].stage is PipelineStage.QUERIES


def share_with_padding(sample: Sample, prediction: Prediction | None) -> float:
    if prediction is None:
        return 0.0
    return float(((prediction.tokens == sample.labels) | (sample.labels == IGNORE)).mean())


def share_without_ends(sample: Sample, prediction: Prediction | None) -> float:
    scored = (sample.labels != IGNORE) & (sample.labels != EOS)
    return 0.0 if prediction is None else float((prediction.tokens == sample.labels)[scored].mean())


def place_in_larger_grid(output: Grid, candidates: tuple[Candidate, ...]) -> int | None:
    rows, columns = output.shape
    places = [n for n, one in enumerate(candidates, 1) if np.array_equal(one.grid[:rows, :columns], output)]
    return places[0] if places else None


def answered_tasks_only(pass_at: Callable[..., PassK]) -> Callable[..., PassK]:
    def changed(k: int, results: Sequence[Sequence[QueryResult]]) -> PassK:
        return pass_at(k, [tests for tests in results if any(result.votes for result in tests)])

    return changed


def queries_for_tasks(pass_at: Callable[..., PassK]) -> Callable[..., PassK]:
    def changed(k: int, results: Sequence[Sequence[QueryResult]]) -> PassK:
        shares = pass_at(k, [[result] for tests in results for result in tests]).score
        return replace(pass_at(k, results), score=shares)

    return changed


def rank_without_halting(predictions: Any) -> tuple[Candidate, ...]:
    return tuple(sorted(voting.rank(predictions), key=lambda one: (-one.votes, one.halting)))


def answer_next(predict: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    def changed(samples: Sequence[Sample], *rest: Any) -> list[Any]:
        found = predict(samples, *rest)
        turned = found[1:] + found[:1]
        return [
            (p and q and p.tokens.shape == q.tokens.shape and replace(p, tokens=q.tokens)) or p
            for p, q in zip(found, turned, strict=True)
        ]

    return changed


def show_next_demos(build: Callable[..., list[Sample]]) -> Callable[..., list[Sample]]:
    def changed(*args: Any, **options: Any) -> list[Sample]:
        samples = build(*args, **options)
        turned = samples[1:] + samples[:1]
        return [replace(sample, demos=other.demos) for sample, other in zip(samples, turned, strict=True)]

    return changed


def show_whole_canvas(build: Callable[..., list[Sample]]) -> Callable[..., list[Sample]]:
    def changed(tasks: TaskSet, data: DataConfig, *args: Any, **options: Any) -> list[Sample]:
        return build(tasks, DataConfig(**data.model_dump() | {"canvas": "published"}), *args, **options)

    return changed


CHANGES: dict[str, tuple[str, Callable[[Any], Any], PipelineStage, str]] = {
    "padding counts as right": (
        "_token_share",
        lambda _: share_with_padding,
        PipelineStage.SCORE,
        "token_accuracy",
    ),
    "end markers are not scored": (
        "_token_share",
        lambda _: share_without_ends,
        PipelineStage.SCORE,
        "token_accuracy",
    ),
    "larger answers are right": ("_place", lambda _: place_in_larger_grid, PipelineStage.SCORE, "ranks"),
    "only answered tasks count": ("_pass_at", answered_tasks_only, PipelineStage.SCORE, "pass@1.asked"),
    "queries count, not tasks": ("_pass_at", queries_for_tasks, PipelineStage.SCORE, "pass@1.score"),
    "ties go to the least certain": (
        "rank",
        lambda _: rank_without_halting,
        PipelineStage.VOTES,
        "candidates",
    ),
    "the next row's answer": ("predict", answer_next, PipelineStage.VOTES, "candidates"),
    "the next row's context": (
        "build_evaluation_samples",
        show_next_demos,
        PipelineStage.QUERIES,
        "demos.tokens",
    ),
    "the whole canvas": (
        "build_evaluation_samples",
        show_whole_canvas,
        PipelineStage.QUERIES,
        "episode",
    ),
}


@pytest.mark.parametrize("name", one_in(2, CHANGES))
def test_a_planted_change_is_named_at_its_stage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, change, stage, tensor = CHANGES[name]
    monkeypatch.setattr(passk, function, change(getattr(passk, function)))
    trainer = build_trainer(few_of("small", evaluate={"max_tasks": 60}))
    found = compare_all(record_known_answers(trainer))
    order = list(PipelineStage)
    first = min(found, key=lambda departure: order.index(departure.stage))
    assert first.stage is stage
    assert tensor in {departure.tensor for departure in found if departure.stage is stage}


def test_a_task_that_is_solved_in_part_is_among_any_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only task with two queries is the third by id, and every third task has no answer."""

    def solve_by_any(k: int, results: Sequence[Sequence[QueryResult]]) -> PassK:
        found = pass_at(k, results)
        return replace(found, solved=sum(any(result.solved(k) for result in tests) for tests in results))

    pass_at = passk._pass_at
    monkeypatch.setattr(passk, "_pass_at", solve_by_any)
    trainer = build_trainer(few_of("smoke", evaluate={"max_tasks": 40}))
    assert "pass@1.solved" in {found.tensor for found in compare_all(record_known_answers(trainer))}


def reverse_ranks(attempts: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    return lambda ranked: attempts(ranked[::-1])


def repeat_best(attempts: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    return lambda ranked: attempts(ranked[:1] * 2)


def turn_grids(attempts: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    return lambda ranked: {name: np.transpose(rows).tolist() for name, rows in attempts(ranked).items()}


def leave_out_second(attempts: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    return lambda ranked: {"attempt_1": attempts(ranked)["attempt_1"]}


@pytest.mark.parametrize("change", [reverse_ranks, repeat_best, turn_grids, leave_out_second])
def test_a_changed_submission_of_right_scores_departs_alone(
    change: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "_attempts", change(submission._attempts))
    found = compare_all(record_known_answers(build_trainer(few_of("smoke"))))
    assert {(departure.stage, departure.tensor) for departure in found} == {
        (PipelineStage.SCORE, "submission")
    }


@pytest.mark.parametrize(
    ("fault", "stages"),
    [
        ("no-inverse", {PipelineStage.VOTES}),
        ("divide-by-all", {PipelineStage.SCORE}),
        ("stale-votes", {PipelineStage.VOTES, PipelineStage.SCORE}),
        ("pairs-for-tasks", {PipelineStage.QUERIES, PipelineStage.VOTES, PipelineStage.SCORE}),
    ],
)
def test_a_listed_fault_is_named_at_its_stage(fault: str, stages: set[PipelineStage]) -> None:
    trainer = build_trainer(with_settings(few_of("small"), faults=(fault,)))
    assert {departure.stage for departure in compare_all(record_known_answers(trainer))} == stages


def test_an_evaluator_that_refuses_right_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise ValueError("too many colours")

    trainer = build_trainer(few_of("smoke"))
    trainer.recipe = replace(trainer.recipe, evaluate=refuse)
    found = compare_all(record_known_answers(trainer))
    assert {(departure.stage, departure.tensor) for departure in found} >= {(PipelineStage.SCORE, "report")}


def test_tasks_with_several_queries_are_among_those_that_are_evaluated() -> None:
    chosen = choose_held_out(few_of("small", evaluate={"max_tasks": 60}))
    assert len(chosen) == 12
    assert sum(len(task.tests) > 1 for task in chosen) == 2


def test_loaded_weights_depart_nowhere_and_raw_ones_as_averages_do() -> None:
    for faults, departs in (((), False), (("eval-raw",), True)):
        trainer = build_trainer(few_of("smoke", faults=faults))
        for _ in range(3):
            trainer.train_step()
        found = compare_loaded_weights(trainer)
        assert bool(found) == departs
        assert {departure.stage for departure in found} <= {PipelineStage.WEIGHTS}

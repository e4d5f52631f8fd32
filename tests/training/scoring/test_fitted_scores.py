from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from etrm.config import Config, with_settings
from etrm.data import Pair, TaskSet, build_evaluation_samples, load_tasks
from etrm.evaluation import Prediction
from etrm.model.construct import build_variant
from etrm.model.variant import Variant
from etrm.training.scoring.context_search import SearchedAnswer
from etrm.training.scoring.fitted_scores import Fit, Fitted, choose_votes, fit_to_tasks
from etrm.training.task_sets import load_training_tasks

Smoke = Callable[..., Config]


@pytest.fixture(scope="module")
def config(smoke: Smoke) -> Config:
    return with_settings(
        smoke("model.hidden_size=16", "model.halt.max_steps=1"),
        evaluate={
            "augmentations": 2,
            "search": {"steps": 2, "restarts": 3, "hold_out": True},
            "adapt": {"steps": 1, "batch_size": 2},
        },
    )


@pytest.fixture(scope="module")
def asked(config: Config) -> TaskSet:
    return load_tasks(config.evaluate.source, "evaluation")


@pytest.fixture
def model(config: Config) -> Variant:
    torch.manual_seed(0)
    model = build_variant(config.model).eval()
    nn.init.normal_(model.core.lm_head.weight)  # type: ignore[union-attr]
    return model


def score_fitted(*given: Any, **options: Any) -> Fitted:
    return fit_to_tasks(*given, **options).score()


def test_every_way_has_its_votes_and_leaves_the_weights(
    model: Variant, config: Config, asked: TaskSet
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = score_fitted(
        model, config, asked, load_training_tasks(config), search=True, part="weights"
    ).scores
    votes = {fit: {query.votes for query in scores.report.queries} for fit, scores in found.items()}
    assert list(votes) == [Fit.CONTEXT, Fit.MISMATCHED, Fit.PART, Fit.BOTH]
    assert votes.pop(Fit.PART) == {2}
    assert all(2 <= count <= 6 for counts in votes.values() for count in counts)
    assert all(len(scores.report.queries) == 3 for scores in found.values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for fit, scores in found.items():
        searched = fit is not Fit.PART
        assert (scores.steps == 2, scores.fitted is not None, scores.held_out is not None) == (searched,) * 3
        assert scores.seconds > 0
        assert scores.unadapted == 0


def test_the_answers_do_not_depend_on_the_outputs_that_they_are_scored_with(
    model: Variant, config: Config, asked: TaskSet
) -> None:
    def plant(pair: Pair) -> Pair:
        return Pair(pair.input, np.full((2, 3), 5, np.uint8))

    tasks = tuple(replace(task, tests=tuple(map(plant, task.tests))) for task in asked)
    trained, found = load_training_tasks(config), []
    for given in (asked, replace(asked, tasks=tasks)):
        scores = score_fitted(model, config, given, trained, search=True, part="context").scores
        found.append(
            {
                fit: [
                    (candidate.grid.tolist(), candidate.votes, candidate.halting)
                    for ranked in one.report.candidates.values()
                    for query in ranked
                    for candidate in query
                ]
                for fit, one in scores.items()
            }
        )
    assert found[0] == found[1]


def test_searches_that_answer_most_of_their_demonstrations_vote(config: Config, asked: TaskSet) -> None:
    samples = build_evaluation_samples(asked, config.data, 1, 0)[:2]
    shares = {0: (0.5, 1.0, 1.0), 1: (0.0, 0.0, 0.0)}
    answers = [
        SearchedAnswer(Prediction(samples[row], samples[row].tokens, float(place)), share, math.nan, 1)
        for row, own in shares.items()
        for place, share in enumerate(own)
    ]
    chosen = [(vote.sample.task_id, vote.q_halt) for vote in choose_votes(answers)]
    first, second = (sample.task_id for sample in samples)
    assert chosen == [(first, 1), (first, 2), (second, 0), (second, 1), (second, 2)]


def test_only_what_is_requested_is_scored(model: Variant, config: Config, asked: TaskSet) -> None:
    trained = load_training_tasks(config)
    without = with_settings(config, evaluate={"search": {"control": False}})
    searched = score_fitted(model, without, asked, trained, search=True, part=None)
    adapted = score_fitted(model, without, asked, trained, search=False, part="encoder")
    assert list(searched.scores) == [Fit.CONTEXT]
    assert list(adapted.scores) == [Fit.PART]
    assert not searched.interrupted


@pytest.mark.parametrize("finished", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_keeps_the_finished_tasks(
    model: Variant, config: Config, asked: TaskSet, finished: int
) -> None:
    trained = load_training_tasks(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen: list[tuple[str, int, int]] = []

    def interrupt(work: str, done: int, total: int) -> None:
        seen.append((work, done, total))
        if work == Fit.PART.words and done == finished:
            raise KeyboardInterrupt

    whole = score_fitted(model, config, asked, trained, search=True, part="weights").scores
    found = score_fitted(model, config, asked, trained, search=True, part="weights", progress=interrupt)
    assert found.interrupted
    assert [total for _, _, total in seen] == [len(asked)] * len(seen)
    assert {fit: found.scores[fit].report.pass_at[1].asked for fit in Fit} == {
        Fit.CONTEXT: len(asked),
        Fit.MISMATCHED: len(asked),
        Fit.PART: finished,
        Fit.BOTH: finished,
    }
    for fit in (Fit.PART, Fit.BOTH):
        kept = found.scores[fit].report.candidates
        assert list(kept) == [task.id for task in tuple(asked)[:finished]]
        assert {id: votes_of(kept[id]) for id in kept} == {
            id: votes_of(whole[fit].report.candidates[id]) for id in kept
        }
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_ctrl_c_in_the_first_task_leaves_no_score(model: Variant, config: Config, asked: TaskSet) -> None:
    def interrupt(work: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    one_at_a_time = with_settings(config, evaluate={"batch_size": 1})
    found = score_fitted(
        model, one_at_a_time, asked, load_training_tasks(config), search=True, part=None, progress=interrupt
    )
    assert found.interrupted
    assert not found.scores


def votes_of(queries: Any) -> list[list[tuple[list[list[int]], int]]]:
    return [[(candidate.grid.tolist(), candidate.votes) for candidate in ranked] for ranked in queries]

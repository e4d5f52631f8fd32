from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from etrm.config import Config
from etrm.data import DemoPair, Sample, TaskSet, build_evaluation_samples, load_tasks
from etrm.data.demonstration_queries import read_pair
from etrm.evaluation import Prediction
from etrm.evaluation.learning_stage import SolvedCount
from etrm.training.scoring.run_analysis import (
    NOISES,
    MeasuredAnswers,
    analyse_run,
    choose_commonest,
    compare,
    compare_readouts,
    draw_vote_curve,
    list_steps,
    re_pair,
)
from etrm.training.scoring.step_trace import StepTrace
from etrm.training.trainer import train

Smoke = Callable[..., Config]


@pytest.fixture(scope="module")
def asked(smoke: Smoke) -> TaskSet:
    return load_tasks(smoke().evaluate.source, "evaluation")


def answer(sample: Sample, right: bool) -> np.ndarray:
    tokens = np.where(sample.labels < 0, 0, sample.labels)
    return tokens if right else np.where(tokens > 1, 2 + (tokens - 1) % 10, tokens)


def invented(samples: list[Sample], right: list[list[int]], q_halt: list[list[float]]) -> StepTrace:
    """A trace whose answers are right where the table of steps and samples says 1."""
    tokens = tuple(tuple(answer(s, bool(r)) for s, r in zip(samples, row, strict=True)) for row in right)
    return StepTrace(tuple(samples), tokens, np.array(q_halt), np.full((len(right), len(samples)), 0.5))


@pytest.fixture
def trace(asked: TaskSet, smoke: Smoke) -> StepTrace:
    samples = build_evaluation_samples(asked, smoke().data, 2, 0)[:4]
    right = [[1, 0, 0, 1], [1, 1, 1, 0], [0, 1, 0, 0]]
    return invented(samples, right, [[1, -1, -1, 1], [1, -1, 1, 1], [1, -1, 1, 1]])


def test_steps_are_counted(trace: StepTrace) -> None:
    found = list(list_steps(trace))
    assert [(one.step, one.right, one.halted) for one in found] == [
        (1, SolvedCount(2, 4), 0.5),
        (2, SolvedCount(3, 4), 0.75),
        (3, SolvedCount(1, 4), 0.75),
    ]
    assert [one.moved for one in found] == [0.5] * 3


def test_readouts_are_compared_with_the_last_step(trace: StepTrace) -> None:
    found = {one.code: (one.right.solved, one.gained, one.lost) for one in compare_readouts(trace)}
    # Halting reads steps 1, 3, 2, 1: all four right. Samples 1 and 3 choose step 1, where one of samples 0 and 2 is
    # right; samples 0 and 2 choose step 2, where one of samples 1 and 3 is right.
    assert found == {"last": (1, 0, 0), "best-fixed": (2, 1, 0), "halting": (4, 3, 0), "any": (4, 3, 0)}


def test_the_best_step_is_chosen_on_the_other_half(asked: TaskSet, smoke: Smoke) -> None:
    """Steps that are right for one half only gain nothing."""
    samples = build_evaluation_samples(asked, smoke().data, 2, 0)[:4]
    trace = invented(samples, [[1, 0, 1, 0], [0, 1, 0, 1]], [[0.0] * 4] * 2)
    found = {one.code: one.right.solved for one in compare_readouts(trace)}
    assert (found["last"], found["best-fixed"], found["any"]) == (2, 0, 4)


def test_a_condition_counts_what_it_gains_and_loses() -> None:
    now = MeasuredAnswers(np.array([1, 1, 0, 0], bool), np.array([1, 1, 0.5, 0.25]))
    before = MeasuredAnswers(np.array([1, 0, 1, 0], bool), np.array([1, 0.5, 1, 0.25]))
    found = compare("x", now, before)
    assert (found.right, found.gained, found.lost) == (SolvedCount(2, 4), 1, 1)
    assert (found.accuracy, found.change) == (0.6875, 0)
    # t of 3 degrees of freedom at .975 is 3.1824; the differences 0, .5, -.5, 0 have the deviation .40825.
    assert found.high == pytest.approx(3.1824 * 0.40825 / 2, rel=1e-3)
    assert found.low == pytest.approx(-found.high)
    single = compare("x", *(MeasuredAnswers(one.exact[:1], one.accuracy[:1]) for one in (now, before)))
    assert (single.low, single.high) == (None, None)


def test_outcomes_are_chosen_by_answer() -> None:
    one = MeasuredAnswers(np.array([1, 0], bool), np.array([1, 0.25]))
    two = MeasuredAnswers(np.array([0, 0], bool), np.array([0.5, 0.75]))
    chosen = MeasuredAnswers.choose([one, two], np.array([0, 1]))
    assert (chosen.exact.tolist(), chosen.accuracy.tolist()) == ([True, False], [1, 0.75])
    best = MeasuredAnswers.best([one, two])
    assert (best.exact.tolist(), best.accuracy.tolist()) == ([True, False], [1, 0.75])


def test_the_vote_curve_counts_the_first_votes(asked: TaskSet, smoke: Smoke) -> None:
    """Votes 1 and 2 are wrong in different ways, 3 to 5 are right."""
    samples = build_evaluation_samples(asked, smoke().data, 5, 0)
    predictions = []
    for index, sample in enumerate(samples):
        vote = index % 5
        tokens = answer(sample, vote > 1)
        if vote == 1:
            tokens = np.where(sample.tokens > 1, 1, sample.tokens)  # no grid at all
        predictions.append(Prediction(sample, tokens.astype(np.int16), 0.0))
    found = list(draw_vote_curve(asked, samples, predictions, 5))
    assert [one.votes for one in found] == [1, 2, 4, 5]
    assert [one.first.solved for one in found] == [0, 0, 3, 3]
    assert [one.second.solved for one in found] == [0, 0, 3, 3]
    assert all(one.first.evaluated == 3 for one in found)


def test_the_commonest_answer_is_chosen() -> None:
    a, b, c = (np.array([number]) for number in (1, 2, 3))
    assert choose_commonest([(a, a), (b, b), (b, c)]).tolist() == [1, 0]


def test_inputs_get_the_next_output(asked: TaskSet, smoke: Smoke) -> None:
    sample = build_evaluation_samples(asked, smoke().data, 1, 0)[0]
    own = [read_pair(demo) for demo in sample.demos]
    for place, demo in enumerate(re_pair(sample.demos)):
        assert isinstance(demo, DemoPair)
        pair = read_pair(demo)
        assert np.array_equal(pair.input, own[place].input)
        assert np.array_equal(pair.output, own[(place + 1) % len(own)].output)


@pytest.mark.parametrize("variant", ["etrm", "trm"])
def test_a_whole_run(smoke: Smoke, tmp_path: Path, variant: str) -> None:
    settings = (
        f"model.variant={variant}",
        "data.augmentations=2",
        "model.hidden_size=16",
        "model.halt.max_steps=2",
    )
    short = ("train.steps=1", "train.warmup_steps=0", "monitor.enabled=false")
    assert train(smoke(*settings, *short), tmp_path / "run")
    found = analyse_run(tmp_path / "run", {"evaluate": {"augmentations": 3, "max_tasks": 3}})
    assert found.seen == (variant == "trm")
    assert [one.step for one in found.steps] == [1, 2]
    assert [one.votes for one in found.votes] == ([1, 2] if found.seen else [1, 2, 3])
    codes = [one.code for one in found.ablations]
    assert codes[:3] == ["blank", "mean", "swapped"]
    assert ("reordered" in codes, "demos-1" in codes) == (not found.seen, not found.seen)
    assert len(found.noise) == 4 * len(NOISES)
    assert [one.k for one in found.attempts] == [1, 2, 5, 10]
    assert {one.right.evaluated for one in (*found.readouts, *found.ablations, *found.noise)} == {3}
    json.dumps(found.to_dict())

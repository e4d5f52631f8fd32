from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from etrm.config import Config, load, with_settings
from etrm.data import Pair, Sample, TaskSet, build_evaluation_samples, load_tasks
from etrm.errors import ConfigError
from etrm.evaluation.voting import Prediction
from etrm.model.construct import build_variant
from etrm.model.variant import Variant
from etrm.training.scoring.context_search import (
    ContextSearch,
    compute_contexts,
    compute_typical_contexts,
    mismatch,
    solve_from,
)
from etrm.training.scoring.predictor import make_predictor
from etrm.training.task_sets import load_training_tasks
from tests.errors import raises_code

Smoke = Callable[..., Config]


@pytest.fixture(scope="module")
def config(smoke: Smoke) -> Config:
    return smoke("model.hidden_size=16", "model.halt.max_steps=2", "data.augmentations=2")


@pytest.fixture(scope="module")
def trained(config: Config) -> TaskSet:
    return load_training_tasks(config)


@pytest.fixture(scope="module")
def asked(config: Config) -> TaskSet:
    return load_tasks(config.evaluate.source, "evaluation")


def build_model(config: Config, trained: TaskSet) -> Variant:
    torch.manual_seed(0)
    model = build_variant(config.model, puzzles=2 * len(trained)).eval()
    nn.init.normal_(model.core.lm_head.weight)  # type: ignore[union-attr]
    return model


def searching(config: Config, **settings: object) -> Config:
    return with_settings(config, evaluate={"search": {"steps": 3, "restarts": 2, **settings}})


def samples_of(tasks: TaskSet, config: Config, augmentations: int = 2) -> list[Sample]:
    return build_evaluation_samples(tasks, config.data, augmentations, 0)


def answers_of(predictions: list[Prediction]) -> list[list[int]]:
    return [prediction.tokens.tolist() for prediction in predictions]


@pytest.mark.parametrize("start", ["encoder", "mean", "noise"])
def test_no_answer_is_read(config: Config, trained: TaskSet, asked: TaskSet, start: str) -> None:
    """Other outputs of the test pairs change neither the answers nor the weights."""
    config = searching(config, start=start, hold_out=True)
    search = ContextSearch(build_model(config, trained), config, trained)
    found = []
    for plant in (False, True):
        tasks = tuple(
            replace(task, tests=tuple(Pair(p.input, np.full((2, 2), 3, np.uint8)) for p in task.tests))
            if plant
            else task
            for task in asked
        )
        given = samples_of(replace(asked, tasks=tasks), config)
        found.append(
            [(a.prediction.tokens.tolist(), a.prediction.q_halt, a.fitted) for a in search.answer(given)]
        )
    assert found[0] == found[1]


def test_a_search_depends_on_no_neighbour_and_leaves_the_weights(
    config: Config, trained: TaskSet, asked: TaskSet
) -> None:
    config = searching(config)
    model = build_model(config, trained)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    search, given = ContextSearch(model, config, trained), samples_of(asked, config)
    together = search.answer(given)
    assert len(together) == 2 * len(given)
    assert [a.prediction.sample for a in together] == [sample for sample in given for _ in range(2)]
    for place, sample in enumerate(given):
        alone = search.answer([sample])
        for one, other in zip(alone, together[2 * place : 2 * place + 2], strict=True):
            assert one.prediction.q_halt == pytest.approx(other.prediction.q_halt, abs=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_without_steps_the_start_answers_as_the_model_does(
    config: Config, trained: TaskSet, asked: TaskSet
) -> None:
    config = searching(config, start="encoder", restarts=1, steps=1, stop_loss=1e9)
    model = build_model(config, trained)
    given = samples_of(asked, config)
    found = ContextSearch(model, config, trained).answer(given)
    plain = make_predictor(model)(given)
    assert [a.steps for a in found] == [0] * len(given)
    for answer, expected in zip(found, plain, strict=True):
        assert expected is not None
        assert np.array_equal(answer.prediction.tokens, expected[0])
        assert answer.prediction.q_halt == pytest.approx(expected[1], abs=1e-5)


def test_starts_are_those_that_the_settings_name(config: Config, trained: TaskSet, asked: TaskSet) -> None:
    model, given = build_model(config, trained), samples_of(asked, config, 1)
    typical = compute_typical_contexts(model, config, trained)
    encoded = compute_contexts(model, given)
    no_step = {"stop_loss": 1e9, "restarts": 2}

    def starts(start: str, **more: object) -> torch.Tensor:
        other = searching(config, start=start, **no_step, **more)
        return (
            ContextSearch(model, other, trained)
            .search(given)
            .context.view(len(given), 2, *model.context_shape)
        )

    torch.testing.assert_close(starts("mean")[:, 0], typical.mean(0).expand_as(encoded))
    torch.testing.assert_close(starts("encoder")[:, 0], encoded)
    torch.testing.assert_close(starts("encoder", noise=0.0)[:, 1], encoded)
    noise = starts("noise")
    assert noise.std().item() == pytest.approx(typical.std().item(), rel=0.15)
    assert not torch.equal(noise[:, 0], noise[:, 1])
    torch.testing.assert_close(starts("encoder")[:, 1] - encoded, noise[:, 1])
    torch.testing.assert_close(starts("noise"), noise)


def test_the_encoder_does_not_see_a_demonstration_that_is_left_out(
    config: Config, trained: TaskSet, asked: TaskSet
) -> None:
    model, given = build_model(config, trained), samples_of(asked, config, 1)[:1]
    config = searching(config, start="encoder", noise=0.0, hold_out=True, stop_loss=1e9, restarts=2)
    found = ContextSearch(model, config, trained).search(given).context
    for left in range(2):
        demos = tuple(demo for index, demo in enumerate(given[0].demos) if index != left)
        torch.testing.assert_close(found[left], compute_contexts(model, [replace(given[0], demos=demos)])[0])


def test_the_control_shows_the_next_task_under_the_same_augmentation(config: Config, asked: TaskSet) -> None:
    given = samples_of(asked, config)
    ids = [task.id for task in asked]
    for own, other in zip(given, mismatch(given), strict=True):
        assert other.task_id == ids[(ids.index(own.task_id) + 1) % len(ids)]
    assert {id(other) for other in mismatch(given)} == {id(sample) for sample in given}


def test_an_answer_reads_the_given_context_and_nothing_else(
    config: Config, trained: TaskSet, asked: TaskSet
) -> None:
    model, given = build_model(config, trained), samples_of(asked, config, 1)
    contexts = compute_contexts(model, given)
    tokens, q_halt = solve_from(model, [replace(s, demos=given[0].demos) for s in given], contexts)
    for row, expected in enumerate(make_predictor(model)(given)):
        assert expected is not None
        assert np.array_equal(tokens[row, : len(expected[0])].numpy(), expected[0])
        assert float(q_halt[row]) == pytest.approx(expected[1], abs=1e-5)


def test_the_row_of_a_puzzle_table_is_searched_too(config: Config, trained: TaskSet) -> None:
    config = searching(with_settings(config, model={"variant": "trm"}), start="encoder")
    model = build_model(config, trained)
    given = build_evaluation_samples(trained, config.data, 1, 0, variant="trm", trained=trained)
    assert len(ContextSearch(model, config, trained).answer(given)) == 2 * len(given)


def test_a_context_that_is_a_distribution_is_refused(trained: TaskSet, smoke: Smoke) -> None:
    with raises_code(ConfigError, "search.no-free-context", "symbolic"):
        ContextSearch(build_variant(load("symbolic").model), smoke(), trained)

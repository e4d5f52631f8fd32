from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from etrm.config import AdaptedPart, Config, load, with_settings
from etrm.data import Pair, Task, TaskSet, build_evaluation_samples, load_tasks
from etrm.errors import ConfigError
from etrm.model.construct import build_variant
from etrm.model.variant import Variant
from etrm.training.scoring.adaptation import adapt, check_adaptable, hide_answers
from etrm.training.scoring.context_search import compute_contexts
from etrm.training.scoring.predictor import compute_mean_loss
from tests.errors import raises_code

Smoke = Callable[..., Config]
PARTS: tuple[AdaptedPart, ...] = ("weights", "encoder", "context")


@pytest.fixture(scope="module")
def config(smoke: Smoke) -> Config:
    smallest = smoke("model.hidden_size=16", "model.halt.max_steps=2")
    return with_settings(smallest, evaluate={"adapt": {"steps": 6, "batch_size": 4, "rate": 0.01}})


@pytest.fixture(scope="module")
def asked(config: Config) -> TaskSet:
    return load_tasks(config.evaluate.source, "evaluation")


@pytest.fixture
def model(config: Config) -> Variant:
    torch.manual_seed(0)
    model = build_variant(config.model).eval()
    nn.init.normal_(model.core.lm_head.weight, std=0.1)  # type: ignore[union-attr]
    return model


def copied(model: Variant) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def differing(model: Variant, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(
    ("part", "prefixes"), [("weights", {"core", "encoder"}), ("encoder", {"encoder"}), ("context", set())]
)
def test_only_the_part_is_trained_and_everything_is_restored(
    model: Variant, config: Config, asked: TaskSet, part: AdaptedPart, prefixes: set[str]
) -> None:
    before, own = copied(model.train()), next(iter(asked))
    next(model.parameters()).grad = gradient = torch.ones_like(next(model.parameters()))
    given = build_evaluation_samples(asked, config.data, 1, 0)[:1]
    contexts = compute_contexts(model, given)
    with adapt(model, own, config, part) as adapted:
        assert {name.split(".")[0] for name in differing(model, before)} == prefixes
        assert len(adapted.losses) == 6
        assert not torch.equal(compute_contexts(adapted.model, given), contexts)
    assert differing(model, before) == set()
    assert model.training
    assert next(model.parameters()).grad is gradient
    assert all(weight.requires_grad for weight in model.parameters())
    assert torch.equal(compute_contexts(model, given), contexts)


def test_the_encoder_of_a_cached_context_is_adapted_by_the_first_step_alone(
    config: Config, asked: TaskSet
) -> None:
    cached = with_settings(config, model={"variant": "etrm_cached"})
    model = build_variant(cached.model).eval()
    before = copied(model)
    with adapt(model, next(iter(asked)), cached, "encoder") as adapted:
        assert {name.split(".")[0] for name in differing(model, before)} == {"encoder"}
        assert len(adapted.losses) == 6


@pytest.mark.parametrize("part", PARTS)
def test_the_weights_are_restored_after_an_error(
    model: Variant, config: Config, asked: TaskSet, part: AdaptedPart
) -> None:
    before = copied(model)
    with pytest.raises(KeyError), adapt(model, next(iter(asked)), config, part):
        raise KeyError
    assert differing(model, before) == set()


@pytest.mark.parametrize("part", PARTS)
def test_an_answer_is_never_read(model: Variant, config: Config, asked: TaskSet, part: AdaptedPart) -> None:
    """Whatever output a test pair has, adaptation gives the same losses and the same weights, bit for bit."""
    own = next(iter(asked))
    planted = replace(own, tests=tuple(Pair(p.input, np.full((4, 4), 7, np.uint8)) for p in own.tests))
    found = []
    for task in (own, planted, hide_answers(own)):
        with adapt(model, task, config, part) as adapted:
            found.append((adapted.losses, copied(adapted.model)))
    for losses, weights in found[1:]:
        assert losses == found[0][0]
        assert all(torch.equal(value, found[0][1][name]) for name, value in weights.items())
    assert all(pair.output is None for pair in hide_answers(own).tests)


def test_adaptation_lowers_the_loss_of_the_demonstrations(
    model: Variant, config: Config, asked: TaskSet
) -> None:
    own = next(iter(asked))
    posed = TaskSet((Task(own.id, own.demos, own.demos),), "invented", "evaluation")
    given = build_evaluation_samples(posed, config.data, 1, 0)
    longer = with_settings(config, evaluate={"adapt": {"steps": 25}})
    before = compute_mean_loss(model, given)
    with adapt(model, own, longer, "weights") as adapted:
        assert compute_mean_loss(adapted.model, given) < before
    assert compute_mean_loss(model, given) == before


def test_a_task_with_one_demonstration_changes_nothing(
    model: Variant, config: Config, asked: TaskSet
) -> None:
    own, before = next(iter(asked)), copied(model)
    with adapt(model, replace(own, demos=own.demos[:1]), config, "weights") as adapted:
        assert adapted.losses == ()
        assert differing(model, before) == set()


def test_a_stream_of_training_tasks_is_left_behind(model: Variant) -> None:
    rules = load("rules")
    config = with_settings(
        rules,
        data={"stream": "endless", "demos": (2, 3), "max_tasks": None},
        evaluate={"max_tasks": 1, "adapt": {"steps": 1}},
    )
    (task,) = load_tasks("rules:colours", "evaluation", 3, 1)
    with adapt(build_variant(config.model), task, config, "encoder") as adapted:
        assert len(adapted.losses) == 1


def test_rules_are_not_augmented(model: Variant, smoke: Smoke) -> None:
    rules = smoke(
        "evaluate.source=rules:colours", "evaluate.augmentations=1", "evaluate.max_tasks=1", "data.max_side=3"
    )
    (task,) = load_tasks("rules:colours", "evaluation", 3, 1)
    short = with_settings(rules, model={"hidden_size": 16}, evaluate={"adapt": {"steps": 1}})
    with adapt(model, task, short, "encoder") as adapted:
        assert len(adapted.losses) == 1


@pytest.mark.parametrize(("variant", "part"), [("trm", "weights"), ("symbolic", "context")])
def test_a_model_without_such_a_part_is_refused(smoke: Smoke, variant: str, part: AdaptedPart) -> None:
    symbolic = variant == "symbolic"
    config = load("symbolic") if symbolic else smoke("model.variant=trm", "data.augmentations=1")
    with raises_code(ConfigError, "adapt.no-such-part", variant):
        check_adaptable(build_variant(config.model, puzzles=1), part)

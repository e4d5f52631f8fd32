"""Against torch's own Adam, one context at a time, on a tiny model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from etrm.config import Config
from etrm.data import Episodes, Sample, pose_demonstrations
from etrm.model.construct import build_variant
from etrm.model.variant import Variant
from etrm.training.context_fit import (
    FittedContexts,
    PosedDemos,
    fit_contexts,
    frozen_for_answers,
    measure_demos,
)
from etrm.training.loss import act_loss
from etrm.training.task_sets import load_training_tasks

Smoke = Callable[..., Config]
STEPS, RATE = 6, 0.1


@pytest.fixture(scope="module")
def config(smoke: Smoke) -> Config:
    return smoke("model.hidden_size=16", "model.halt.max_steps=2", "data.augmentations=1")


@pytest.fixture
def model(config: Config) -> Variant:
    model = build_variant(config.model)
    nn.init.normal_(model.core.lm_head.weight)  # type: ignore[union-attr]
    return model


@pytest.fixture(scope="module")
def sets(config: Config) -> list[list[Sample]]:
    """The demonstrations of four tasks, two or three each."""
    episodes = Episodes(load_training_tasks(config), config.data, "etrm", 0)
    samples = [episodes.sample(bucket, index) for bucket in range(2) for index in range(2)]
    return [pose_demonstrations(sample) for sample in samples]


def start(model: Variant, rows: int) -> Tensor:
    return torch.randn(rows, *model.context_shape)


def collated(
    model: Variant, sets: list[list[Sample]], left_out: list[int | None] | None = None
) -> PosedDemos:
    return PosedDemos.collated(sets, left_out or [None] * len(sets), model.device)


def fit(model: Variant, first: Tensor, demos: PosedDemos, stop_loss: float = 0.0) -> FittedContexts:
    return fit_contexts(model, first, demos, steps=STEPS, rate=RATE, stop_loss=stop_loss)


def loss_alone(model: Variant, context: Tensor, query: Sample) -> Tensor:
    """The mean loss of one demonstration over two ACT steps, written out."""
    batch = PosedDemos.collated([[query]], [None], model.device).batch
    carry = model.initial_carry(1)
    carry, first = model.step(carry, batch, context[None])
    carry, second = model.step(carry, batch, context[None])
    return (act_loss(first, batch.labels).lm[0] + act_loss(second, batch.labels).lm[0]) / 2


@pytest.mark.parametrize("left_out", [None, 1])
def test_each_context_is_fitted_as_torchs_adam_fits_it_alone(
    model: Variant, sets: list[list[Sample]], left_out: int | None
) -> None:
    first = start(model, len(sets))
    found = fit(model, first, collated(model, sets, [left_out] * len(sets)))
    with frozen_for_answers(model):
        for row, posed in enumerate(sets):
            context = first[row].clone().requires_grad_()
            adam = torch.optim.Adam([context], lr=RATE, betas=(0.9, 0.9))
            seen: list[tuple[float, Tensor]] = []
            for step in range(STEPS + 1):
                losses = torch.stack([loss_alone(model, context, query) for query in posed])
                fitted = torch.tensor([index != left_out for index in range(len(posed))])
                watched = losses[fitted] if left_out is None else losses[~fitted]
                seen.append((watched.mean().item(), context.detach().clone()))
                if step < STEPS:
                    adam.zero_grad()
                    losses[fitted].sum().backward()
                    adam.step()
            loss, best = min(seen, key=lambda pair: pair[0])
            assert found.loss[row].item() == pytest.approx(loss, rel=1e-4)
            torch.testing.assert_close(found.context[row], best, rtol=1e-3, atol=1e-3)


def test_a_search_lowers_the_loss_and_counts_its_steps(model: Variant, sets: list[list[Sample]]) -> None:
    first, demos = start(model, len(sets)), collated(model, sets)
    before = [
        measure_demos(model.eval(), first, demos, "stablemax", 2)[0][demos.owner == r].mean()
        for r in range(4)
    ]
    found = fit(model, first, demos)
    assert all(found.loss[r] < before[r] for r in range(4))
    assert found.steps.tolist() == [STEPS] * 4


def test_searches_that_are_good_enough_stop_and_the_others_do_not_notice(
    model: Variant, sets: list[list[Sample]]
) -> None:
    first, demos = start(model, len(sets)), collated(model, sets)
    long = fit(model, first, demos)
    limit = float(long.loss.median()) + 1e-6
    short = fit(model, first, demos, stop_loss=limit)
    stopped = short.loss < limit
    assert 0 < int(stopped.sum()) < 4
    assert int(short.steps[stopped].min()) < STEPS
    torch.testing.assert_close(short.context[~stopped], long.context[~stopped], rtol=1e-3, atol=1e-4)
    assert fit(model, first, demos, stop_loss=1e9).steps.tolist() == [0] * 4


def test_shares_count_fitted_and_held_out_demonstrations_apart(
    model: Variant, sets: list[list[Sample]]
) -> None:
    found = fit(model, start(model, 4), collated(model, sets, [0, None, 0, None]))
    assert found.held_out.isnan().tolist() == [False, True, False, True]
    assert set(found.held_out[[0, 2]].tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("training", [True, False])
def test_weights_gradients_and_modes_stay(model: Variant, sets: list[list[Sample]], training: bool) -> None:
    model.train(training)
    assert model.encoder is not None
    model.encoder.train(not training)
    next(model.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [weight.requires_grad for weight in model.parameters()]
    modes = [module.training for module in model.modules()]
    fit(model, start(model, 4), collated(model, sets))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [weight.requires_grad for weight in model.parameters()] == flags
    assert [module.training for module in model.modules()] == modes
    assert all(weight.grad is None for weight in model.parameters())

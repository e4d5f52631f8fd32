"""Gradient steps on contexts: Adam is torch's, and the loss is the mean over the ACT steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from etrm.config import DataConfig
from etrm.model.construct import build_variant
from etrm.reference.data.posed_queries import pose
from etrm.reference.model.network import part
from etrm.reference.training.context_steps import (
    ContextUpdates,
    SearchedContexts,
    answer_demos,
    average_watched,
    move_contexts,
    search_contexts,
)
from tests.reference.training.test_step import config_of

PAIR = np.array([5, 1, 1, 6, 1, 1]), np.array([0, 1, 30, 900, 901, 930])
CONFIG = config_of(train={"inner_steps": 2, "inner_rate": 0.05})
POSED = pose([[PAIR], [PAIR, PAIR]], DataConfig(), torch.device("cpu"))


def weights_of_core() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = build_variant(CONFIG.model)
    torch.nn.init.normal_(model.core.lm_head.weight)  # type: ignore[union-attr]
    return dict(part(model.state_dict(), "core"))


def test_updates_are_those_of_torch() -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(2, 3, 4), torch.randn(3, 2, 3, 4)
    leaf = start.clone().requires_grad_()
    adam = torch.optim.Adam([leaf], lr=0.1, betas=(0.9, 0.9))
    found, updates = start, ContextUpdates()
    for gradient in gradients:
        leaf.grad = gradient.clone()
        adam.step()
        found = updates.move(found, gradient, 0.1)
    torch.testing.assert_close(found, leaf.detach())


def test_moved_contexts_answer_better_and_only_from_their_own_demonstrations() -> None:
    core, contexts = weights_of_core(), torch.randn(2, 4, 32)
    moved = move_contexts(core, CONFIG.model, CONFIG.train, contexts, POSED)
    before, after = (
        answer_demos(core, CONFIG.model, CONFIG.train, found, POSED, 1).losses for found in (contexts, moved)
    )
    assert (after < before).all()
    alone = pose([[PAIR]], DataConfig(), torch.device("cpu"))
    torch.testing.assert_close(
        move_contexts(core, CONFIG.model, CONFIG.train, contexts[:1], alone), moved[:1]
    )
    assert float((moved - contexts).abs().max()) == pytest.approx(0.1, rel=0.01)  # two steps of the rate


def test_the_loss_is_a_mean_over_the_steps() -> None:
    core, contexts = weights_of_core(), torch.randn(2, 4, 32)
    one, two = (answer_demos(core, CONFIG.model, CONFIG.train, contexts, POSED, n).losses for n in (1, 2))
    second = 2 * two - one
    assert (second > 0).all()
    assert not torch.allclose(one, second)


def test_a_search_keeps_the_lowest_loss_of_what_it_watches() -> None:
    """The held-out demonstration of a context decides, and never moves it."""
    core, start = weights_of_core(), torch.randn(2, 4, 32)
    held_out = torch.tensor([False, False, True])
    found = search_contexts(core, CONFIG.model, CONFIG.train, start, POSED, held_out, steps=3, rate=1.0)
    steps = CONFIG.model.halt.max_steps
    losses = answer_demos(core, CONFIG.model, CONFIG.train, found.contexts, POSED, steps).losses
    assert average_watched(losses, POSED.owner, held_out, 2).tolist() == pytest.approx(
        [float(losses[0]), float(losses[2])]
    )
    assert found.losses.tolist() == pytest.approx([float(losses[0]), float(losses[2])])
    first = answer_demos(core, CONFIG.model, CONFIG.train, start, POSED, steps).losses
    assert float(found.losses[0]) <= float(first[0])
    assert float(found.losses[1]) <= float(first[2])


def test_searches_stop_where_their_loss_is_low() -> None:
    """What is measured after a search stopped, or after its last step, does not stop it."""
    course = torch.tensor([[3.0, 1.0, 2.0], [2.0, 0.5, 1.0], [1.0, 0.1, 0.5]])
    found = SearchedContexts(course.min(0).values, torch.zeros(3, 1, 1), course).stopped_below(1.5)
    assert found.steps.tolist() == [2, 0, 1]
    assert found.losses.tolist() == [1.0, 1.0, 1.0]

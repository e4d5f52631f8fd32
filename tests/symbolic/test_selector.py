"""How logits become weights, and which parts of a recursive selector a gradient reaches."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from etrm.config import SymbolicConfig
from etrm.config.symbolic import Selection
from etrm.symbolic.grids import Grids
from etrm.symbolic.selector import (
    DemonstrationEncoder,
    EncodedSelector,
    FitSelector,
    draw_gumbel,
    join_logits,
    measure_entropy,
    select,
    weigh,
)
from etrm.symbolic.templates import COLOURS, SOURCES

LOGITS = torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, -4.0]])


def gradient(selection: Selection, noise: Tensor | None = None) -> Tensor | None:
    logits = LOGITS.clone().requires_grad_()
    weights = select(weigh(logits, 1.0, noise), selection)
    if not weights.requires_grad:
        return None
    (weights * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
    return logits.grad


@pytest.mark.parametrize("selection", ["hard", "straight_through"])
def test_the_best_template_has_all_the_weight(selection: Selection) -> None:
    weights = select(weigh(LOGITS, 1.0), selection)
    torch.testing.assert_close(weights, torch.tensor([[0.0, 1, 0], [1, 0, 0]]))


def test_soft_weights_are_a_softmax_at_the_temperature() -> None:
    weights = select(weigh(LOGITS, 0.5), "soft")
    torch.testing.assert_close(weights, torch.softmax(2 * LOGITS, 1))


def test_the_entropy_of_weights_is_theirs_and_has_a_gradient_where_a_weight_is_zero() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [3.0, 1.0, 1.0, -300.0]], requires_grad=True)
    found = measure_entropy(logits, 2.0)
    weights = weigh(logits, 2.0)
    assert weights[1, 3] == 0
    by_hand = [-sum(p * math.log(p) for p in row if p) for row in weights.tolist()]
    assert found.tolist() == pytest.approx(by_hand, rel=1e-5)
    found.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[1, 0] < 0 < logits.grad[1, 1]  # less of the best template makes the entropy larger


def test_hard_weights_let_no_gradient_pass() -> None:
    assert gradient("hard") is None


def test_straight_through_weights_have_the_gradient_of_the_softmax() -> None:
    noise = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    sampled = select(weigh(LOGITS, 1.0, noise), "straight_through")
    torch.testing.assert_close(sampled, torch.tensor([[1.0, 0, 0], [0, 0, 1]]))
    logits = (LOGITS + noise).requires_grad_()
    (logits.softmax(1) * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
    found = gradient("straight_through", noise)
    assert found is not None
    torch.testing.assert_close(found, logits.grad)


def test_gumbel_noise_draws_templates_by_their_softmax() -> None:
    torch.manual_seed(0)
    noise = draw_gumbel(4000, LOGITS.shape[1])
    drawn = select(weigh(LOGITS[:1], 1.0, noise), "hard").mean(0)
    torch.testing.assert_close(drawn, LOGITS[0].softmax(0), atol=0.03, rtol=0)


def test_the_logit_of_a_recolouring_is_the_sum_of_its_parts() -> None:
    parts = [
        torch.randn(2, size, generator=torch.Generator().manual_seed(size))
        for size in (3, 4, SOURCES, COLOURS)
    ]
    joined = join_logits(*parts)
    assert torch.equal(joined[:, :3], parts[0])
    for place, (m, s, t) in enumerate(product(range(4), range(SOURCES), range(COLOURS))):
        torch.testing.assert_close(joined[:, 3 + place], parts[1][:, m] + parts[2][:, s] + parts[3][:, t])


def test_fit_prefers_what_explains_the_demonstrations_until_its_prior_says_otherwise() -> None:
    selector = FitSelector(2, 1)
    likely = torch.full((1, 2 + SOURCES * COLOURS), -9.0)
    likely[0, 1] = -1
    assert selector(likely).argmax() == 1
    with torch.no_grad():
        selector.rules[0] = 20
    assert selector(likely).argmax() == 0


def made(config: dict[str, Any]) -> tuple[EncodedSelector, Tensor]:
    torch.manual_seed(0)
    selector = EncodedSelector(SymbolicConfig(selector="demos", hidden_size=8, **config), 3, 2)
    grids = Grids.of([np.array([[1, 2], [0, 3]]), np.array([[4]])])
    return selector, selector(selector.encoder(grids, grids))


@pytest.mark.parametrize("cycle_grad", ["all", "last"])
@pytest.mark.parametrize("inject", ["start", "every_cycle"])
def test_only_the_last_cycle_with_an_injection_at_the_start_alone_starves_the_encoder(
    cycle_grad: str, inject: str
) -> None:
    selector, logits = made({"cycle_grad": cycle_grad, "inject": inject})
    (logits.softmax(1) * torch.arange(logits.shape[1])).sum().backward()
    reached = {
        name for name, weight in selector.named_parameters() if weight.grad is not None and weight.grad.any()
    }
    refiners = {name for name, _ in selector.named_parameters() if name.startswith("refine")}
    encoder = {name for name, _ in selector.named_parameters() if name.startswith("encoder")}
    assert refiners <= reached
    assert (encoder & reached == set()) == (cycle_grad == "last" and inject == "start")
    assert encoder & reached in (set(), encoder)


def test_cycles_without_gradient_change_no_value() -> None:
    assert torch.equal(made({"cycle_grad": "all"})[1], made({"cycle_grad": "last"})[1])


def test_an_encoding_depends_on_the_grid_and_not_on_its_canvas() -> None:
    torch.manual_seed(0)
    encoder, small = DemonstrationEncoder(8), np.array([[1, 2, 0]])
    alone = encoder(Grids.of([small]), Grids.of([small]))
    together = encoder(Grids.of([small, np.ones((5, 6))]), Grids.of([small, np.ones((6, 4))]))
    torch.testing.assert_close(alone[0], together[0])
    assert not torch.allclose(alone, encoder(Grids.of([small])))

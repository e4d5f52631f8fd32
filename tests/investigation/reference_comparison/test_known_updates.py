"""Optimisers of fits on known gradients: healthy ones depart nowhere, and a changed decay departs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from etrm.investigation.reference_comparison.known_updates import compare_context_updates, compare_optimizer
from etrm.reference.departure import Departure
from etrm.training import context_fit
from etrm.training.context_fit import ContextAdam


def adapt_with(slope: float = 0.5, **settings: object) -> list[Departure]:
    found = list[Departure]()
    weight = nn.Parameter(torch.ones(2))
    with compare_optimizer(0.1, found):
        optimizer = torch.optim.AdamW(
            [weight], **{"lr": 0.1, "betas": (0.9, 0.95), "weight_decay": 0.0, **settings}
        )
        (slope * weight).sum().backward()
        optimizer.step()
    torch.optim.SGD([weight], lr=1.0).step()  # outside, it is no matter
    return found


def test_the_optimizer_of_adapting_has_its_settings() -> None:
    assert adapt_with() == []


@pytest.mark.parametrize("changed", [{"betas": (0.9, 0.999)}, {"weight_decay": 0.01}, {"lr": 0.2}])
def test_another_setting_departs(changed: dict[str, object]) -> None:
    [found] = adapt_with(**changed)
    assert found.where.startswith(next(iter(changed)))


def test_a_gradient_that_is_not_clipped_departs() -> None:
    [found] = adapt_with(slope=1.0)
    assert found.where.startswith("norm 1.41421 of a gradient")


def test_contexts_move_as_in_the_reference() -> None:
    assert compare_context_updates() == []


def test_another_decay_departs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_fit, "BETA", 0.95)
    assert len(compare_context_updates()) == 1


def test_moments_of_another_search_depart(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ContextAdam.select
    monkeypatch.setattr(ContextAdam, "select", lambda adam, rows: plain(adam, torch.zeros_like(rows)))
    [found] = compare_context_updates()
    assert found.where.startswith("update 3")

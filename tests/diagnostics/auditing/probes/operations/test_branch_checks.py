"""A low coverage that a clipped loss explains is a note; one that a cache explains stays an accusation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Finding, Monitor, Severity
from tests.diagnostics.rules.trainings import Cases, Training

B = 32


class Agent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = nn.Linear(4, 2), nn.Linear(4, 1)


def clipped(new: Tensor, old: Tensor, target: Tensor) -> Tensor:
    bounded = old + (new - old).clamp(-0.05, 0.05)
    return torch.max((new - target).square(), (bounded - target).square()).mean()


def cached(new: Tensor, old: Tensor, target: Tensor) -> Tensor:
    return (torch.where(torch.rand(B) < 0.2, new, old) - target).square().mean()


def findings_of(loss: Callable[[Tensor, Tensor, Tensor], Tensor], **given: Any) -> Sequence[Finding]:
    torch.manual_seed(0)
    agent = Agent()
    monitor = Monitor(agent, torch.optim.SGD(agent.parameters(), 1e-4), watch=["actor", "critic"], **given)
    for x in torch.randn(12, B, 4):
        with monitor.step(samples=B):
            value = agent.critic(x)[:, 0]
            old, aim = (value.detach() + 0.3 * torch.randn(B) for _ in range(2))
            (loss(value, old, aim) + agent.actor(x).square().mean()).backward()
    found: Sequence[Finding] = monitor.findings()
    return found


def training(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Training:
    return lambda **given: {each.rule for each in findings_of(loss, **given)}


CASES: Cases = {"COV004": (training(clipped), training(cached))}
"""For the tests of all rules."""


@pytest.mark.parametrize(("loss", "accused"), [(clipped, False), (cached, True)])
def test_where_samples_lose_their_gradient(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor], accused: bool
) -> None:
    found = findings_of(loss)
    above = {
        each.module for each in found if each.severity > Severity.NOTE and each.rule in ("COV001", "COV002")
    }
    notes = {(each.rule, each.module, each.code) for each in found if each.rule == "COV004"}
    assert above == ({"critic"} if accused else set())
    assert notes == (set() if accused else {("COV004", "critic", "other-branch")})

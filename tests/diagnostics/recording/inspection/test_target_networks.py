"""Declared target networks: what is measured of them, and what is reported."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Absent, Monitor, audit
from tests.diagnostics.refusals import refused
from tests.diagnostics.rules.trainings import Cases

Update = Callable[[nn.Module, nn.Module], None]


class Agent(nn.Module):
    """A policy and a target network that starts elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.policy, self.target = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.target(x) + x[:, :3]
        return (self.policy(x) - wanted).square().mean()


def average(weight: float) -> Update:
    """Moves the target so far towards the policy."""

    @torch.no_grad()
    def update(target: nn.Module, policy: nn.Module) -> None:
        for old, new in zip(target.parameters(), policy.parameters(), strict=True):
            old.lerp_(new, weight)

    return update


def train(
    model: Agent,
    update: Update,
    targets: Mapping[str, str],
    held: nn.Module | None = None,
    steps: int = 6,
    **options: Any,
) -> Monitor:
    optimizer = torch.optim.SGD((held or model.policy).parameters(), 0.1, weight_decay=0.1)
    monitor = Monitor(model, optimizer, targets=targets, **options)
    for _ in range(steps):
        with monitor.step(samples=8):
            model(torch.randn(8, 4)).backward()
            optimizer.step()
            optimizer.zero_grad()
            update(model.target, model.policy)
    return monitor


def found(monitor: Monitor) -> list[tuple[str, str, str]]:
    return [
        (each.rule, each.module, each.code) for each in monitor.findings() if each.severity.name != "NOTE"
    ]


@pytest.fixture
def model() -> Agent:
    torch.manual_seed(0)
    return Agent()


def test_gap_movement_and_direction_are_those_of_the_weights(model: Agent) -> None:
    before = torch.cat([weight.detach().flatten() for weight in model.target.parameters()])
    monitor = train(model, average(0.25), {"target": "policy"}, steps=1)
    now = torch.cat([weight.detach().flatten() for weight in model.target.parameters()])
    source = torch.cat([weight.detach().flatten() for weight in model.policy.parameters()])
    (record,) = monitor.last.targets
    assert record.gap == pytest.approx(float((source - now).norm() / source.norm()), rel=1e-5)
    assert record.moved == pytest.approx(float((now - before).norm() / source.norm()), rel=1e-5)
    assert record.towards == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("weight", "code"), [(0.05, ""), (1.0, "no-lag"), (-0.05, "moves-away"), (0.0, "")])
def test_a_target_that_lags_is_quiet_and_one_that_does_not_is_named(
    model: Agent, weight: float, code: str
) -> None:
    monitor = train(model, average(weight), {"target": "policy"})
    assert found(monitor) == ([("TARGET001", "target", code)] if code else [])
    assert isinstance(monitor.last.targets[0].towards, Absent) == (weight == 0.0)
    noted = {each.code for each in monitor.findings() if each.rule == "TARGET001"}
    assert ("stands-still" in noted) == (weight == 0.0)


def test_a_target_that_is_its_source_is_an_error(model: Agent) -> None:
    model.target = model.policy
    assert ("SHARE003", "policy", "alias-of-role") in found(train(model, average(0.1), {"target": "policy"}))


def test_a_target_that_is_trained_is_an_error(model: Agent) -> None:
    model.forward = lambda x: (model.policy(x) - model.target(x) - x[:, :3]).square().mean()  # type: ignore[method-assign]
    monitor = train(model, average(0.1), {"target": "policy"}, held=model)
    assert ("TARGET001", "target", "target-trained") in found(monitor)


@pytest.mark.parametrize(
    ("weight", "code"), [(0.05, ""), (0.6, ""), (0.97, "no-lag"), (1.0, "no-lag"), (0.0, "")]
)
@pytest.mark.parametrize("early", [True, False])
def test_a_module_that_is_called_a_target_must_lag(
    model: Agent, weight: float, code: str, early: bool
) -> None:
    """Whether it is written at the end of a step or at the beginning of it."""
    if early:
        model.register_forward_pre_hook(lambda *_: average(weight)(model.target, model.policy))
    monitor = train(model, average(0.0 if early else weight), {})
    assert found(monitor) == ([("TARGET001", "target", code)] if code else [])


def test_a_module_that_is_called_a_target_must_not_be_averaged_and_trained(model: Agent) -> None:
    model.forward = lambda x: (model.policy(x) - model.target(x) - x[:, :3]).square().mean()  # type: ignore[method-assign]
    named = ("TARGET001", "target", "target-trained")
    assert named in found(train(model, average(0.1), {}, held=model))
    assert named not in found(train(model, average(0.0), {}, held=model))


def test_a_copy_of_another_name_may_be_equal(model: Agent) -> None:
    model.old, model.target = model.target, nn.Linear(4, 2)
    model.forward = lambda x: (model.policy(x) - model.old(x).detach() - x[:, :3]).square().mean()  # type: ignore[method-assign]
    optimizer = torch.optim.SGD(model.policy.parameters(), 0.1)
    monitor = Monitor(model, optimizer)
    for _ in range(6):
        with monitor.step(samples=8):
            average(1.0)(model.old, model.policy)
            model(torch.randn(8, 4)).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert all(rule != "TARGET001" for rule, _, _ in found(monitor))


def test_a_target_that_is_not_watched_is_measured(model: Agent) -> None:
    monitor = Monitor(model, watch=["policy"], targets={"target": "policy"})
    with monitor.step(samples=8):
        model(torch.randn(8, 4)).backward()
    assert [record.name for record in monitor.last.targets] == ["target"]


def test_an_audit_takes_targets(model: Agent) -> None:
    optimizer = torch.optim.SGD(model.policy.parameters(), 0.1)
    wanted = copy.deepcopy(model.state_dict())
    report = audit(
        model, lambda model, x: model(x), [torch.randn(8, 4)], optimizer, targets={"target": "policy"}
    )
    assert report.clean
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("targets", "code"),
    [
        ({"targt": "policy"}, "selection.no-match"),
        ({"target": "pol*"}, "selection.no-match"),
        ({"target": "target"}, "monitor.target-differs"),
    ],
)
def test_what_is_no_pair_is_refused(model: Agent, targets: Mapping[str, str], code: str) -> None:
    with refused(ValueError, code):
        Monitor(model, targets=targets)


class Normed(nn.Module):
    """A policy and its target, both with running statistics."""

    def __init__(self, kind: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.policy = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        self.target = copy.deepcopy(self.policy).requires_grad_(False).to(kind).eval()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        wanted = self.target(x.to(self.kind)).float() + x[:, :3]
        return (self.policy(2 * x + 1) - wanted).square().mean()


@pytest.mark.parametrize(
    ("kind", "share", "buffers", "every", "code"),
    [
        (torch.float32, 0.05, True, 1, ""),
        (torch.float32, 0.05, False, 1, "buffers-not-copied"),
        (torch.bfloat16, 0.001, True, 1, "rounded-away"),
        (torch.bfloat16, 0.5, True, 1, ""),
        (torch.bfloat16, 1.0, True, 4, ""),
    ],
    ids=["all", "weights alone", "rounded", "far", "every fourth step"],
)
def test_what_is_lost_on_the_way_to_a_target(
    kind: torch.dtype, share: float, buffers: bool, every: int, code: str
) -> None:
    torch.manual_seed(0)
    model = Normed(kind)
    optimizer = torch.optim.SGD(model.policy.parameters(), 0.05)
    monitor = Monitor(model, optimizer)
    for number in range(16):
        with monitor.step(samples=32):
            model(torch.randn(32, 4)).backward()
            optimizer.step()
            optimizer.zero_grad()
            if number % every == 0:
                with torch.no_grad():
                    for old, new in zip(model.target.parameters(), model.policy.parameters(), strict=True):
                        old.copy_((1 - share) * old + share * new.to(kind))
                    for old, new in zip(model.target.buffers(), model.policy.buffers(), strict=True):
                        if buffers:
                            old.copy_(new)
    assert [each for each in found(monitor) if each[0] == "TARGET001"] == (
        [("TARGET001", "target", code)] if code else []
    )


def rules_of(weight: float, **options: Any) -> set[str]:
    """The rules that fire where the target moves so far towards the policy in each step."""
    torch.manual_seed(0)
    return {rule for rule, _, _ in found(train(Agent(), average(weight), {"target": "policy"}, **options))}


CASES: Cases = {"TARGET001": (partial(rules_of, 1.0), partial(rules_of, 0.05))}

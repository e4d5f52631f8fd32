"""Steps that are recorded together have the records and findings of steps that are recorded one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Absent, Finding, Monitor
from diagnostics.records import StepRecord, StepScalars
from tests.sampled import one_in

SAMPLES, STEPS = 12, 40


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 16), nn.Tanh())
        self.core, self.head = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, fault: str) -> Tensor:
        context = state = self.encoder(x)
        if fault == "detached":
            context = state = context.detach()
        if fault == "half":
            state = context = torch.cat((context[:6], context[6:].detach()))
        for _ in range(3):
            state = self.core(state + context).tanh()
        if fault == "equal":
            state = state.mean(0) + 1e-4 * state
        if fault == "infinite":
            state = state / 0.0
        return self.head(state)


def train(
    waiting: int, fault: str, starts: int, ends: int
) -> tuple[list[StepScalars], list[Finding], StepRecord]:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    monitor = Monitor(model, optimizer)
    monitor._waiting.most = waiting
    for number in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1e-4 * (1 + number)
        now = fault if starts <= number < ends else ""
        with monitor.step(samples=SAMPLES):
            loss = model(torch.randn(SAMPLES, 4), now).square().mean()
            monitor.loss(loss)
            loss.backward()
            if now == "cleared":
                optimizer.zero_grad(set_to_none=False)
            if now != "not stepped":
                optimizer.step()
            if now != "not cleared":
                optimizer.zero_grad()
    return list(monitor.history), monitor.findings(), monitor.last


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Absent) or isinstance(other, Absent):
        return bool(one == other)
    return one == pytest.approx(other, rel=1e-5, abs=1e-12, nan_ok=True)


FAULTS = ("detached", "half", "equal", "infinite", "cleared", "not stepped", "not cleared")


@pytest.mark.parametrize(
    ("fault", "starts", "ends"),
    [
        *one_in(2, ((fault, 13, 27) for fault in FAULTS)),
        *one_in(len(FAULTS), ((fault, 0, STEPS) for fault in FAULTS)),
    ],
)
def test_together_and_one_by_one(fault: str, starts: int, ends: int) -> None:
    one, found, last = train(1, fault, starts, ends)
    other, again, latest = train(64, fault, starts, ends)
    assert [each.step for each in one] == [each.step for each in other]
    for first, second in zip(one, other, strict=True):
        for module, scalars in first.modules.items():
            wrong = {key for key, value in scalars.items() if not same(value, second.modules[module][key])}
            assert not wrong, (first.step, module)
        assert same(first.losses[""], second.losses[""])
    facts = [
        (each.rule, each.code, each.module, each.severity, each.evidence.first_step, each.evidence.last_step)
        for each in found
    ]
    assert facts == [
        (each.rule, each.code, each.module, each.severity, each.evidence.first_step, each.evidence.last_step)
        for each in again
    ]
    assert last.step == latest.step == STEPS - 1
    assert last.parameters.keys() == latest.parameters.keys()
    for name, parameter in last.parameters.items():
        twin = latest.parameters[name]
        assert (parameter.reach.kind, parameter.changed, parameter.leftover) == (
            twin.reach.kind,
            twin.changed,
            twin.leftover,
        )
        assert same(parameter.largest, twin.largest)
        assert same(parameter.update_norm, twin.update_norm)
    call, twin_call = last.modules["encoder"].calls[0], latest.modules["encoder"].calls[0]
    if isinstance(call.row_gradients, Tensor):
        assert isinstance(twin_call.row_gradients, Tensor)
        torch.testing.assert_close(call.row_gradients, twin_call.row_gradients, equal_nan=True)

"""Movement of parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diagnostics import Monitor, Severity
from tests.diagnostics.rules.trainings import (
    HEALTHY,
    Cases,
    Net,
    clipped_at,
    every_fourth,
    head_taken_out,
    head_zeroed,
    mostly_undone,
    never_stepped,
    rate_zero,
    train,
    updated,
)

CASES: Cases = {
    "MOVE001": (rate_zero, HEALTHY),
    "MOVE002": (updated(head_zeroed), updated(head_taken_out)),
    "MOVE003": (updated(never_stepped, steps=24), updated(every_fourth, steps=24)),
    "MOVE004": (updated(clipped_at(1e-9), steps=24), updated(clipped_at(1e-3), steps=24)),
    "MOVE005": (updated(mostly_undone(0.95)), updated(mostly_undone(0.5))),
}


@pytest.mark.parametrize("norm", [1e-9, 1e-6])
def test_a_gradient_clipped_to_nothing_is_lost_with_any_optimiser(norm: float) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found = train(model, optimizer=optimizer, update=clipped_at(norm), steps=24)
    assert found & {"MOVE001", "MOVE004"} == {"MOVE004"}


def test_what_is_undone_in_whole_did_not_move() -> None:
    assert updated(mostly_undone(1.0))() & {"MOVE001", "MOVE005"} == {"MOVE001"}


@pytest.mark.parametrize("share", [0.0, 0.95])
@pytest.mark.parametrize("restored", ["rows", "mask"])
def test_numbers_that_are_put_back_on_purpose_are_no_update_that_is_undone(
    restored: str, share: float
) -> None:
    """As new words in a table whose other rows stay, and as pruned weights; an average of all is a fault."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(80, 6))
    kept = torch.rand(6, 80) > 0.9 if restored == "mask" else torch.arange(6)[:, None] == 5
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    monitor = Monitor(model, optimizer)
    for _ in range(8):
        before = model[0].weight.detach().clone()
        with monitor.step(samples=8):
            model(torch.randn(8, 80)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                if share:
                    model[0].weight.lerp_(before, share)
                else:
                    model[0].weight.copy_(torch.where(kept, model[0].weight, before))
    found = [each.rule for each in monitor.findings() if each.severity > Severity.NOTE]
    assert found == (["MOVE005"] if share else [])


def test_a_small_loss_is_no_gradient_that_was_lost() -> None:
    assert "MOVE004" not in train(scale=lambda step: 1e-12, steps=24)


@pytest.mark.parametrize("cleared", [False, True])
def test_a_direction_in_which_a_loss_is_flat_was_not_cleared(cleared: bool) -> None:
    """The difference of two means is flat in the last bias, to which another loss, not applied, brings gradient."""
    torch.manual_seed(0)
    judge = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(judge.parameters(), 0.1)
    monitor = Monitor(judge, optimizer)
    for one, other in torch.randn(8, 2, 6, 3):
        with monitor.step(samples=6):
            optimizer.zero_grad()
            (judge(one).mean() - judge(other).mean()).backward()
            if cleared:
                optimizer.zero_grad(set_to_none=False)
            optimizer.step()
            judge(one).mean().backward()
    codes = {each.code for each in monitor.findings() if each.rule == "MOVE001"}
    assert codes == ({"cleared-gradient"} if cleared else set())


@pytest.mark.parametrize("rate", [0.0, 1e-2])
@pytest.mark.parametrize("batches", [1, 3])
def test_a_step_without_update_does_not_hide_that_updates_move_nothing(rate: float, batches: int) -> None:
    """Callbacks record a step per batch, also where gradients are accumulated over several."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters(), rate)
    monitor = Monitor(model, optimizer)
    for number in range(8 * batches):
        with monitor.step(samples=6):
            model(torch.randn(6, 4)).square().mean().backward()
            if number % batches == batches - 1:
                optimizer.step()
                optimizer.zero_grad()
    found = {(finding.rule, finding.code) for finding in monitor.findings(ignore=["RULE001"])}
    assert found == ({("MOVE001", "zero-rate")} if rate == 0.0 else set())


@pytest.mark.parametrize(("name", "code"), [("target", "target-with-graph"), ("second", "in-no-group")])
def test_a_copy_that_no_optimiser_holds(name: str, code: str) -> None:
    """A target must not get the gradient; any other module was left out of the optimiser."""
    model = nn.ModuleDict({"net": nn.Linear(4, 2), name: nn.Linear(4, 2)})
    optimizer = torch.optim.SGD(model["net"].parameters(), lr=0.01)
    monitor = Monitor(model, optimizer)
    for _ in range(6):
        with monitor.step(samples=8):
            optimizer.zero_grad()
            (model["net"](torch.randn(8, 4)) - model[name](torch.randn(8, 4))).square().mean().backward()
            optimizer.step()
    found = {each.code: each.module for each in monitor.findings(select=["MOVE001"])}
    assert found == {code: name}

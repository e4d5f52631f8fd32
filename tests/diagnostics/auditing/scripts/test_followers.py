"""Copies of a model: those that follow it are quiet, and those that stand still, run away or do not lag are named."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from diagnostics import Severity
from diagnostics.auditing.scripts.followers import Followers
from diagnostics.auditing.scripts.live_objects import LiveObjects


def blend(share: float) -> Callable[[nn.Module, nn.Module], None]:
    def update(old: nn.Module, new: nn.Module) -> None:
        for one, other in zip(old.parameters(), new.parameters(), strict=True):
            one.lerp_(other, share)

    return update


CASES: dict[str, tuple[Callable[[nn.Module, nn.Module], None], bool, str, bool]] = {
    "an average": (blend(0.01), False, "", False),
    "away": (blend(-0.01), False, "moves-away", True),
    "without lag": (blend(1.0), False, "no-lag", True),
    "nothing": (lambda old, new: None, False, "stands-still", False),
    "nothing, and evaluated": (lambda old, new: None, True, "evaluated-as-at-start", True),
}


@pytest.mark.parametrize("name", CASES)
def test_what_becomes_of_a_copy(name: str) -> None:
    update, evaluated, code, accused = CASES[name]
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    ema = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    followers = Followers()
    followers.look([model], LiveObjects())
    assert followers.modules == {"ema": ema}
    for step in range(12):
        followers.begin()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            update(ema, model)
        followers.end()
        if evaluated and step == 11:
            followers.note_call(ema, inside=False)
    found = [(each.rule, each.module, each.code) for each in followers.findings()]
    assert found == ([("TARGET001", "ema", code)] if code else [])
    assert [each.severity > Severity.NOTE for each in followers.findings()] == ([accused] if code else [])


@pytest.mark.parametrize(("called", "reached"), [(True, "copied-backwards"), (False, "stands-still")])
def test_a_model_that_is_set_back_to_its_target(called: bool, reached: str) -> None:
    """One that no step calls may be the start that a program goes back to for each new task."""
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    target = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    followers = Followers()
    followers.look([model], LiveObjects())
    for step in range(12):
        followers.begin()
        if called:
            followers.note_call(target, inside=True)
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 4 == 3:
            model.load_state_dict(target.state_dict())
        followers.end()
    assert [each.code for each in followers.findings()] == [reached]


def test_another_start_and_what_an_optimizer_holds_are_no_copies() -> None:
    torch.manual_seed(31)  # the models of other tests may be alive
    model, other = nn.Linear(4, 4), nn.Linear(4, 4)
    twin = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(each.parameters(), 0.1) for each in (model, twin)]
    followers = Followers()
    followers.look([model], LiveObjects())
    assert followers.modules == {}
    assert len(optimizers) == 2
    assert not torch.equal(model.weight, other.weight)


@pytest.mark.parametrize("part", ["copy", "model"])
def test_a_program_that_changes_the_shape_or_place_of_weights_is_not_ended(part: str) -> None:
    torch.manual_seed(32)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    ema = copy.deepcopy(model).requires_grad_(False)
    followers = Followers()
    followers.look([model], LiveObjects())
    assert ema in followers.modules.values()
    changed = ema if part == "copy" else model
    for step in range(6):
        followers.begin()
        if step == 2:
            changed[0] = nn.Linear(4, 4, device="meta")  # on another device
            changed[1] = nn.Linear(4, 8)
        followers.end()
    assert {each.rule for each in followers.findings()} <= {"TARGET001"}

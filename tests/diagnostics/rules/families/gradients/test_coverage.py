"""Coverage: low, partial and unknown."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Monitor, Severity
from tests.diagnostics.rules.trainings import HEALTHY, Cases, cut_rows, declared_rows, twice_as_many_rows

CASES: Cases = {
    "COV001": (cut_rows(2), cut_rows(6)),
    "COV002": (cut_rows(6), HEALTHY),
    "COV003": (twice_as_many_rows, declared_rows),
}


class Heads(nn.Module):
    """A body and two heads, the second of which the loss reads for the first sample alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.one, self.other = nn.Linear(4, 8), nn.Linear(8, 1), nn.Linear(8, 1)

    def loss(self, x: Tensor, first: int) -> Tensor:
        """Of the first so many samples through the first head, and of one through the other."""
        h = self.body(x)
        return self.one(h)[:first].square().mean() + self.other(h)[:1].square().mean()


@pytest.mark.parametrize(
    ("first", "modules"), [(8, {"other": Severity.NOTE}), (2, {"": Severity.CRITICAL})], ids=["all", "two"]
)
def test_a_head_for_some_samples_is_a_note_where_all_train_what_feeds_it(
    first: int, modules: dict[str, Severity]
) -> None:
    model = Heads()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    monitor = Monitor(model, optimizer)
    for _ in range(12):
        with monitor.step(samples=8):
            model.loss(torch.randn(8, 4), first).backward()
            optimizer.step()
            optimizer.zero_grad()
    found = {each.module: each.severity for each in monitor.findings(select=["COV001"])}
    assert found == modules


@pytest.mark.parametrize(("same", "severity"), [(False, None), (True, "CRITICAL")])
def test_the_only_module_that_learns_may_meet_other_samples_in_each_step(
    same: bool, severity: str | None
) -> None:
    """A frozen target network beside it has no coverage, and says nothing about the samples."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"target": nn.Linear(4, 16).requires_grad_(False), "guess": nn.Linear(4, 16)})
    monitor = Monitor(model, expect_frozen=["target"])
    for x in torch.randn(20, 32, 4):
        with monitor.step(samples=32):
            error = (model["guess"](x) - model["target"](x)).square().mean(1)
            left = torch.arange(32) < 10 if same else torch.rand(32) < 0.3
            (error * left).sum().backward()
            model.zero_grad()
    above = {each.severity.name for each in monitor.findings() if each.severity.name != "NOTE"}
    assert (severity in above) if severity else not above


@pytest.mark.parametrize(("cut", "severity"), [(False, Severity.NOTE), (True, Severity.CRITICAL)])
def test_modules_that_each_sample_chooses_one_of_are_a_note(cut: bool, severity: Severity) -> None:
    """Cut, the shares of the samples add up to no whole number."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"branches": nn.ModuleList(nn.Linear(4, 8) for _ in range(4)), "head": nn.Linear(8, 1)}
    )
    monitor = Monitor(model)
    for x in torch.randn(12, 32, 4):
        with monitor.step(samples=32):
            choice = nn.functional.one_hot(torch.randint(0, 4, (32,)), 4).float()
            choice[:6] *= 0 if cut else 1
            results = torch.stack([branch(x) for branch in model["branches"]], 1)
            model["head"]((choice[..., None] * results).sum(1)).square().mean().backward()
            model.zero_grad()
    found = {each.severity for each in monitor.findings(select=["COV001"])}
    assert found == {severity}

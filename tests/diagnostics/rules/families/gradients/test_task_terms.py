"""Modules that only a regulariser trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Finding, audit
from tests.diagnostics.rules.trainings import Cases, Training

Terms = Mapping[str, Tensor | float]


class Chooser(nn.Module):
    """A selector chooses among the answers of a bank: by argmax, or by a mixture that has gradient."""

    def __init__(self, hard: bool, gate: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(4, 8)
        self.selector = nn.Linear(8, 3)
        self.bank = nn.Linear(4, 6)
        self.hard = hard
        self.gate = gate

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.selector(self.encoder(x).relu()).softmax(-1)
        answers = self.bank(x).view(-1, 3, 2)
        used = nn.functional.one_hot(weights.argmax(-1), 3).float() if self.hard else weights * self.gate
        return (used[..., None] * answers).sum(1), weights


def terms(model: nn.Module, x: Tensor) -> dict[str, Tensor | float]:
    answer, weights = model(x)
    entropy = -(weights * weights.log()).sum(-1).mean()
    return {"answer": (answer - x[:, :2]).square().mean(), "entropy": 0.01 * entropy}


def found(model: nn.Module, step: Callable[..., Any] = terms, **options: Any) -> list[Finding]:
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(8, 4, generator=generator) for _ in range(4)]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    report = audit(model, step, batches, optimizer, **{"regularisers": ["entropy"], **options})
    return [each for each in report.findings if each.rule == "TERM001"]


def training(hard: bool) -> Training:
    def run(**options: Any) -> set[str]:
        return {finding.rule for finding in found(Chooser(hard), **options)}

    return run


class Rounded(nn.Module):
    """A code that is rounded on its way to a decoder."""

    def __init__(self, straight: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder, self.straight = nn.Linear(4, 8), nn.Linear(8, 4), straight

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(x)
        rounded = code.detach().round()
        passed = code + (rounded - code).detach() if self.straight else code + (rounded - code)
        return self.decoder(passed), (code - rounded).square().mean()


def rounding(straight: bool) -> Training:
    def step(model: nn.Module, x: Tensor) -> Terms:
        found, distance = model(x)
        return {"pictures": (found - x).square().mean(), "distance": distance}

    def run(**options: Any) -> set[str]:
        model, batches = Rounded(straight), list(torch.randn(4, 8, 4))
        report = audit(model, step, batches, torch.optim.Adam(model.parameters(), 1e-2), **options)
        return {finding.rule for each in report.findings for finding in (each, *each.consequences)}

    return run


CASES: Cases = {
    "TERM001": (training(hard=True), training(hard=False)),
    "TERM002": (rounding(straight=False), rounding(straight=True)),
}


def test_it_names_the_module_nearest_to_the_cut_and_explains_those_that_feed_it() -> None:
    (finding,) = found(Chooser(hard=True))
    assert (finding.module, finding.code) == ("selector", "task-cut")
    assert [each.module for each in finding.consequences] == ["encoder"]


def test_a_zero_between_module_and_task_is_another_cause() -> None:
    (finding,) = found(Chooser(hard=False, gate=0.0))
    assert "task-zero" in {finding.code, *(each.code for each in finding.consequences)}


def test_a_part_of_the_loss_that_has_no_name_is_no_task() -> None:
    def step(model: nn.Module, x: Tensor) -> Terms:
        parts = terms(model, x)
        return {"entropy": parts["entropy"], "answer": parts["answer"]}

    assert [each.module for each in found(Chooser(hard=True), step)] == ["selector"]


@pytest.mark.parametrize("regularisers", [[], ["entropy", "answer"]], ids=["none", "all"])
def test_without_a_declaration_or_a_task_nothing_is_said(regularisers: list[str]) -> None:
    assert found(Chooser(hard=True), regularisers=regularisers) == []


def vae(model: nn.Module, x: Tensor) -> Terms:
    mean, log_variance = model.encoder(x).chunk(2, -1)
    sample = mean + torch.randn_like(mean) * (log_variance / 2).exp()
    divergence = (mean.square() + log_variance.exp() - log_variance - 1).mean()
    return {"reconstruction": (model.decoder(sample) - x).square().mean(), "entropy": 0.1 * divergence}


def weight_penalty(model: nn.Module, x: Tensor) -> Terms:
    penalty = sum(parameter.square().sum() for parameter in model.parameters())
    return {"task": model.decoder(model.encoder(x)[:, :4]).square().mean(), "entropy": 1e-3 * penalty}


def zero_head(model: nn.Module, x: Tensor) -> Terms:
    if not hasattr(model, "begun"):
        nn.init.zeros_(model.decoder.weight)
        model.begun = True
    hidden = model.encoder(x)[:, :4]
    return {"task": (model.decoder(hidden) - x).square().mean(), "entropy": 1e-3 * hidden.square().mean()}


def two_heads(model: nn.Module, x: Tensor) -> Terms:
    hidden = model.encoder(x)
    return {
        "first": model.decoder(hidden[:, :4]).square().mean(),
        "second": model.other(hidden).square().mean(),
        "entropy": 1e-3 * hidden.square().mean(),
    }


@pytest.mark.parametrize("step", [vae, weight_penalty, zero_head, two_heads])
def test_healthy_losses_of_several_terms_are_quiet(step: Callable[..., Terms]) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"encoder": nn.Linear(4, 8), "decoder": nn.Linear(4, 4), "other": nn.Linear(8, 2)})
    if step is not two_heads:
        del model["other"]
    assert found(nn.Sequential(model), lambda outer, x: step(outer[0], x), watch=["0.*"]) == []

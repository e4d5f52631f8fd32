"""Findings of the response test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Finding, Response, Severity, audit
from tests.diagnostics.auditing.test_responses import PATHS, Chooser, Gated, X, one_hot, squared, terms
from tests.diagnostics.rules.trainings import Cases, Training

ENTROPY = ("entropy", "constant")


def found(model: nn.Module, loss: Callable[..., Any] = terms) -> list[Finding]:
    return Response(loss, regularisers=ENTROPY).run(model, X)


def probed(name: str) -> Training:
    return lambda **options: {finding.rule for finding in found(Chooser(PATHS[name][0]))}


CASES: Cases = {
    "RESPONSE001": (probed("argmax"), probed("mixture")),
    "RESPONSE002": (probed("not read"), probed("straight-through")),
    "RESPONSE003": (probed("saturated"), probed("mixture")),
}

CODES = {
    "cut": ("RESPONSE001", "scalar-read", Severity.CRITICAL),
    "flat": ("RESPONSE001", "flat-function", Severity.WARNING),
    "unused": ("RESPONSE002", "result-unused", Severity.WARNING),
    "zero factor": ("RESPONSE002", "factor-zero", Severity.WARNING),
    "saturated": ("RESPONSE003", "unit-saturated", Severity.WARNING),
}


@pytest.mark.parametrize("name", PATHS)
def test_one_finding_in_the_module_nearest_to_the_fault(name: str) -> None:
    path, verdict, _ = PATHS[name]
    findings = found(Chooser(path))
    expected = [CODES[verdict]] if verdict in CODES else []
    assert [(each.rule, each.code, each.severity) for each in findings] == expected
    for finding in findings:
        assert finding.module == "selector"
        assert {each.module for each in finding.consequences} == {"encoder", "norm"}


def test_an_answer_that_depends_on_no_weight_is_one_finding_of_the_model() -> None:
    def copied(model: nn.Module, x: Tensor) -> dict[str, Tensor | float]:
        return {"task": x.square().mean(), "entropy": terms(model, x)["entropy"], "constant": 1.0}

    (finding,) = found(Chooser(), copied)
    assert (finding.rule, finding.module, finding.code) == ("RESPONSE002", "", "no-weight")
    assert finding.severity is Severity.CRITICAL


def test_healthy_models_are_quiet() -> None:
    assert Response(squared).run(Gated(), X) == []
    transformer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    assert Response(lambda model, x: model(x[:, None]).square().mean()).run(transformer, X) == []


def test_an_audit_lists_what_the_monitor_says_of_the_module_under_the_response() -> None:
    model = Chooser(one_hot)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    probe = Response(terms, regularisers=ENTROPY)
    report = audit(model, terms, [X], optimizer, probes=[probe], regularisers=ENTROPY)
    above = [finding for finding in report.findings if finding.severity > Severity.NOTE]
    assert [(each.rule, each.module) for each in above] == [("RESPONSE001", "selector")]
    assert "TERM001" in {each.rule for each in above[0].consequences}


def test_samples_without_the_gradient_of_a_saturated_unit_follow_from_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))

    def step(model: nn.Sequential, x: Tensor) -> Tensor:
        size = 1000 + model[0](x)
        size = torch.where(x[:, :1] > 0, size, size.detach())  # as where rounding leaves exactly zero
        return (model[1](size.sign() + 1e-9 * (size - size.detach())) - x[:, :2]).square().mean()

    report = audit(model, step, list(torch.randn(12, 16, 4)), None, steps=12)
    saturated = next(each for each in report.findings if each.rule == "RESPONSE003")
    assert (saturated.module, "COV001" in {each.rule for each in saturated.consequences}) == ("0", True)


class Drawing(nn.Module):
    """A latent of a normal distribution, or a policy; `how` it is drawn."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.encoder, self.decoder, self.how = nn.Linear(4, 6), nn.Linear(3, 4), how

    def forward(self, x: Tensor) -> Tensor:
        mean, scale = self.encoder(x).chunk(2, 1)
        normal = torch.distributions.Independent(torch.distributions.Normal(mean, scale.exp()), 1)
        if self.how == "score":
            drawn = normal.sample()
            return -(normal.log_prob(drawn) * -(drawn - x[:, :3]).square().sum(1)).mean()
        if self.how == "log":
            normal.sample().mean()
        drawn = normal.sample() if self.how == "sample" else normal.rsample()
        return (self.decoder(2 * drawn) - x).square().mean()


@pytest.mark.parametrize(
    ("how", "expected"), [("sample", {"encoder"}), ("rsample", set()), ("score", set()), ("log", set())]
)
def test_a_draw_without_gradient(how: str, expected: set[str]) -> None:
    torch.manual_seed(0)
    model = Drawing(how)
    report = audit(model, lambda m, x: m(x), list(torch.randn(3, 8, 4)), None, steps=3)
    found = {each.module for each in report.findings if each.code == "drawn-without-gradient"}
    assert found == expected


class Fitted(nn.Module):
    """Scales by the deviation of its first batch, or of each batch, and then by a layer."""

    def __init__(self, once: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.once, self.scale = once, nn.ParameterDict({"log": nn.Parameter(torch.zeros(4))})
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.once or not self.scale["log"].any():
            with torch.no_grad():
                self.scale["log"].copy_(-x.std(0).log())
        return self.head(x * self.scale["log"].exp())


@pytest.mark.parametrize("once", [False, True])
def test_weights_that_each_step_writes(once: bool) -> None:
    model = Fitted(once)
    model(X)
    findings = Response(lambda model, x: model(x).square().mean(), watch=["scale", "head"]).run(model, X)
    assert [(each.module, each.code) for each in findings] == (
        [] if once else [("scale", "overwritten-in-step")]
    )

"""Each probe speaks of its planted fault and keeps still on the sound twin; an audit asks them and puts all back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import (
    ContextUse,
    Cost,
    EvaluatorOracle,
    Finding,
    Provenance,
    SampleIndependence,
    Severity,
    audit,
    probe_finding,
)
from diagnostics.auditing.probes.operations.score_checks import ONE_HOT, SOFTMAX001
from diagnostics.auditing.probes.probe import explain_by_probes
from diagnostics.recording.calls.module_graph import Flow
from diagnostics.rules.families.gradients.reach import REACH007
from tests.diagnostics.refusals import refused

Batch = dict[str, Tensor]


class Net(nn.Module):
    """Encodes a context and reads a query with it; `alter` changes the context between the two."""

    def __init__(self, alter: Callable[[Tensor], Tensor] = lambda context: context) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 8)
        self.norm: nn.Module = nn.LayerNorm(8)
        self.decoder = nn.Linear(12, 3)
        self.alter = alter

    def forward(self, context: Tensor, query: Tensor) -> Tensor:
        read = self.alter(self.norm(self.encoder(context)))
        return self.decoder(torch.cat([read, query], 1).tanh())


def net(alter: Callable[[Tensor], Tensor] = lambda context: context, norm: nn.Module | None = None) -> Net:
    torch.manual_seed(0)
    model = Net(alter)
    model.norm = norm or model.norm
    return model


def batch(samples: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return {
        "context": torch.randn(samples, 4, generator=generator),
        "query": torch.randn(samples, 4, generator=generator),
        "label": torch.arange(samples) % 3,
        "id": torch.arange(samples) + 100,
    }


def loss(model: nn.Module, data: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(data["context"], data["query"]), data["label"])


def inputs(data: Batch) -> Any:
    return data["context"], data["query"]


@pytest.mark.parametrize(
    ("model", "training", "leaks"),
    [
        (net(), True, ""),
        (net(norm=nn.BatchNorm1d(8)), False, ""),
        (net(norm=nn.BatchNorm1d(8)), True, "norm"),
        (net(alter=lambda context: context - context.mean(0)), False, "decoder"),
        (net(alter=lambda context: context.softmax(0)), False, "decoder"),
        (net(alter=lambda context: context.softmax(1)), False, ""),
        (net(alter=lambda context: context.flip(0)), False, "decoder"),
    ],
    ids=["sound", "norm in use", "norm in training", "mean", "wrong softmax", "softmax", "order"],
)
def test_sample_independence(model: Net, training: bool, leaks: str) -> None:
    found = SampleIndependence(inputs, training=training).run(model, batch())
    assert [(finding.rule, finding.module) for finding in found] == ([("LEAK001", leaks)] if leaks else [])


def shuffled(data: Batch, index: Tensor) -> Batch:
    return {**data, "context": data["context"][index]}


@pytest.mark.parametrize(
    ("alter", "used"),
    [
        (lambda context: context, True),
        (lambda context: context.detach(), True),  # used, and not trained: coverage tells that
        (lambda context: 0 * context, False),
        (lambda context: context[:1].expand_as(context), True),  # it changes for all: LEAK001 tells
        (lambda context: context.mean(0).expand_as(context), False),
        (lambda context: 1e-7 * context, False),
    ],
    ids=["sound", "detached", "zero", "the first for all", "mean", "too small"],
)
def test_use_of_context(alter: Callable[[Tensor], Tensor], used: bool) -> None:
    model = net(alter)
    found = ContextUse(loss, shuffled, samples=lambda data: len(data["id"]), at_least=1e-3).run(
        model, batch()
    )
    assert [finding.rule for finding in found] == ([] if used else ["CONTEXT001"])


def test_use_of_context_needs_another() -> None:
    with refused(ValueError, "probes.too-few-samples", got=1):
        ContextUse(loss, shuffled, samples=lambda data: len(data["id"])).run(net(), batch(1))


@pytest.mark.parametrize(
    ("arrived", "misplaced", "code", "shown"),
    [
        (lambda model, data: data["id"], 0, "", ""),
        (lambda model, data: data["id"].tolist(), 0, "", ""),
        (lambda model, data: data["id"].flip(0), 6, "reordered", "6 of 6"),
        (
            lambda model, data: torch.where(data["id"] > 103, data["id"], data["id"] - 6),
            4,
            "other-samples",
            "4 of 6 0 100 94",
        ),
        (lambda model, data: data["id"][:4], 2, "dropped-or-repeated", "6 4"),
    ],
    ids=["same", "as a list", "order", "carry", "dropped"],
)
def test_provenance(arrived: Any, misplaced: int, code: str, shown: str) -> None:
    found = Provenance(lambda data: data["id"], arrived).run(net(), batch())
    assert [(each.rule, each.code, each.evidence.value) for each in found] == (
        [("ORIGIN001", code, misplaced)] if misplaced else []
    )
    assert all(number in each.message for each in found for number in shown.split())


def accuracy(predictions: Tensor, data: Batch) -> float:
    return float((predictions == data["label"]).float().mean())


@pytest.mark.parametrize(
    ("score", "wrong"),
    [
        (accuracy, []),
        (lambda predictions, data: accuracy(predictions[:3], {"label": data["label"][3:]}), []),
        (
            lambda predictions, data: accuracy(predictions.roll(1), data),
            ["labels-below-one", "wrong-above-zero"],
        ),
        (lambda predictions, data: accuracy(predictions, data) * 6 / 8, ["labels-below-one"]),
        (lambda predictions, data: (accuracy(predictions, data) * 6 + 2) / 8, ["wrong-above-zero"]),
    ],
    ids=["sound", "half of it", "shifted", "denominator", "padding"],
)
def test_evaluator_oracle(score: Any, wrong: list[str]) -> None:
    probe = EvaluatorOracle(score, lambda data: data["label"], lambda data: (data["label"] + 1) % 3)
    assert [finding.code for finding in probe.run(net(), batch())] == wrong


def test_cost_names_the_slow_module_as_a_note() -> None:
    model = net()
    turns = 0

    def slow(module: nn.Module, args: Any) -> None:
        nonlocal turns
        for _ in range(300):
            turns += 1
            torch.ones(100, 100) @ torch.ones(100, 100)

    model.decoder.register_forward_pre_hook(slow)
    inner = nn.Sequential(model)  # the hook is inside what is timed
    (found,) = Cost(lambda model, data: model[0](*inputs(data)), watch=["0", "0.encoder"]).run(inner, batch())
    assert (found.rule, found.severity, found.module) == ("COST001", Severity.NOTE, "0")
    assert 0.5 < found.evidence.value <= 1.0
    assert "0.encoder" in found.message
    assert turns == 900


@dataclass
class LargeWeights:
    """A probe of a user's own."""

    rule: str = "MINE001"

    def run(self, model: nn.Module, batch: Batch) -> list[Finding]:
        with torch.no_grad():
            model.encoder.weight.fill_(7.0)
        said = probe_finding(
            self.rule, "it is large", metric="norm", value=7.0, threshold=1.0, cause="mine", remedy="shrink"
        )
        return [said]


def test_an_audit_asks_probes_chooses_among_their_findings_and_puts_the_model_back() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    probes = [LargeWeights(), SampleIndependence(inputs)]
    report = audit(model, loss, [batch()], optimizer, probes=probes)
    assert [f.rule for f in report.findings if f.severity > Severity.NOTE] == ["MINE001"]
    assert all(map(torch.equal, before, model.parameters()))
    (result, *_) = json.loads(report.render("sarif"))["runs"][0]["results"]
    assert result["ruleId"] == "MINE001"
    assert "ruleIndex" not in result
    assert "MINE001" in report.render("html")
    assert audit(model, loss, [batch()], optimizer, probes=probes, ignore=["MINE001", "LEAK001"]).clean
    with refused(ValueError, "selection.no-match", argument="ignore", got="MINE002", nearest="MINE001"):
        audit(model, loss, [batch()], optimizer, probes=probes, ignore=["MINE002"])


@pytest.mark.parametrize(("place", "held"), [("", True), ("encoder", True), ("head", False)])
def test_a_softmax_explains_rounding_in_what_feeds_it_and_in_the_models_own_parameters(
    place: str, held: bool
) -> None:
    flow = Flow()
    flow.replace({"attention": frozenset({"encoder"}), "head": frozenset({"attention"})})
    found = REACH007.found_once(place, REACH007.causes[0])
    cause = SOFTMAX001.found_once("attention", ONE_HOT.of(operation="softmax()"))
    first, *others = explain_by_probes([found], [cause], flow)
    assert (others == []) == held
    assert (found.rule in {each.rule for each in (others or [first])[-1].consequences}) == held

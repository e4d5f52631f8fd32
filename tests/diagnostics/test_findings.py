"""Rules have stable ids, findings render from themselves, spikes and collapse are told apart."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from diagnostics import RULES, Evidence, Finding, Monitor, Severity, explain, to_json, to_markdown
from diagnostics.records import StepScalars
from diagnostics.rules.families.gradients.spikes import SPIKE001, find_spikes
from diagnostics.rules.options import settle
from diagnostics.rules.run_history import RunHistory
from tests.diagnostics.refusals import refused

SPIKE = settle({"SPIKE001": SPIKE001.options})["SPIKE001"]
IDS = {
    "COV001",
    "COV002",
    "COV003",
    "WASTE001",
    "STEP001",
    "GRAD001",
    "GRAD002",
    "GRAD003",
    "GRAD004",
    "MODE001",
    "SHARE001",
    "CALL001",
    "RATE001",
    "RATE002",
    "ROUND001",
    "CALL002",
    "REACH001",
    "REACH002",
    "REACH003",
    "MOVE001",
    "MOVE002",
    "MOVE003",
    "FROZEN001",
    "FROZEN002",
    "COLLAPSE001",
    "GRAD005",
    "MOVE004",
    "MOVE005",
    "REACH004",
    "REACH005",
    "TERM001",
    "TERM002",
    "HIDDEN001",
    "RESPONSE001",
    "RESPONSE002",
    "RESPONSE003",
    "SPIKE001",
    "DRIFT001",
    "RULE001",
    "LEAK001",
    "LOSS001",
    "LOSS002",
    "CONTEXT001",
    "ORIGIN001",
    "ORACLE001",
    "HALT001",
    "HALT002",
    "INIT001",
    "FIT001",
    "GRAD006",
    "GRAD007",
    "REACH006",
    "REACH007",
    "MOVE006",
    "MODE002",
    "MODE003",
    "TARGET001",
    "UNITS001",
    "SHARE002",
    "SHARE003",
    "COLLAPSE002",
    "LOSS003",
    "SOFTMAX001",
    "LOSS004",
    "LOSS005",
    "GRAD008",
    "GRAD009",
    "LEAK002",
    "LEAK003",
    "INPUT001",
    "INPUT002",
    "LOSS006",
    "ROWS001",
    "ROWS002",
    "DROP001",
    "COST001",
    "UNITS002",
    "STATE001",
    "STATE002",
    "INPUT004",
    "INPUT005",
    "COV004",
    "MODE004",
    "LINEAR001",
    "MOVE007",
    "REACH008",
    "LOSS007",
    "INPUT003",
    "ROWS003",
    "ROWS004",
    "ROWS005",
    "METRIC001",
    "RANDOM001",
    "SHARE004",
}


def finding(rule: str, severity: Severity, value: float = 0.02) -> Finding:
    evidence = Evidence("coverage", value, 0.5, 3, 9)
    return Finding(rule, severity, "encoder", "one sentence", evidence, "a cause", "a remedy", code="a-code")


def test_ids_are_stable_and_explained() -> None:
    assert {rule.id for rule in RULES} == IDS
    assert len(RULES) == len(IDS)
    for rule in RULES:
        assert rule.title in explain(rule.id)
    with refused(KeyError, "rules.unknown-rule", rule="COV999"):
        explain("COV999")


def test_markdown_puts_the_worst_first() -> None:
    text = to_markdown([finding("B001", Severity.NOTE), finding("A001", Severity.CRITICAL)])
    assert text.index("## critical: A001 encoder") < text.index("## note: B001 encoder")
    assert "coverage = 0.02 (threshold 0.5), steps 3 to 9" in text
    assert to_markdown([]) == "No findings.\n"


def test_json_round_trip() -> None:
    (record,) = json.loads(to_json([finding("A001", Severity.WARNING, math.inf)]))
    assert record["severity"] == "warning"
    assert (record["code"], record["cause"]) == ("a-code", "a cause")
    assert record["evidence"] == {
        "metric": "coverage",
        "value": None,
        "threshold": 0.5,
        "first_step": 3,
        "last_step": 9,
    }


def test_fingerprint_ignores_numbers() -> None:
    assert finding("A001", Severity.NOTE, 0.1).fingerprint == finding("A001", Severity.NOTE, 0.9).fingerprint
    assert finding("A001", Severity.NOTE).fingerprint != finding("A002", Severity.NOTE).fingerprint


def history(spiking: set[str], metric: str, steps: int = 100) -> list[StepScalars]:
    """Falling noise around 1; 40 times as much on 4 steps for the modules that spike."""
    torch.manual_seed(0)
    order = ("encoder", "core", "head")
    records = []
    for step in range(steps):
        size = {name: math.exp(0.2 * torch.randn(()).item()) * (0.1 + math.exp(-step / 20)) for name in order}
        if step in (30, 47, 71, 90):
            size = {name: value * (40 if name in spiking else 1) for name, value in size.items()}
        modules = {name: {"output_rms": 1.0, "gradient_max": 1.0} | {metric: size[name]} for name in order}
        records.append(StepScalars(step, 8, modules, order))
    return records


@pytest.mark.parametrize(
    ("metric", "spiking", "named"),
    [
        ("output_rms", {"encoder", "core", "head"}, "encoder"),
        ("output_rms", {"core", "head"}, "core"),
        ("gradient_max", {"encoder"}, "encoder"),
        ("gradient_max", {"encoder", "core"}, "core"),
    ],
)
def test_spikes_are_named_where_they_arise(metric: str, spiking: set[str], named: str) -> None:
    (found,) = find_spikes(RunHistory(history(spiking, metric)), SPIKE)
    assert found.module == named
    assert (found.evidence.first_step, found.evidence.last_step) == (30, 90)
    what = metric.partition("_")[0]
    assert (found.code, found.evidence.metric) == (f"{what}-spikes", f"{what}_ratio")
    assert "30, 47, 71, 90" in found.message


@pytest.mark.parametrize("metric", ["output_rms", "gradient_max"])
def test_a_falling_series_without_spikes_is_quiet(metric: str) -> None:
    assert find_spikes(RunHistory(history(set(), metric)), SPIKE) == []
    assert find_spikes(RunHistory([]), SPIKE) == []


class Sameness(nn.Module):
    """An encoder whose output is nearly the same for all samples once `on`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 16)
        self.after = nn.Linear(16, 16)
        self.encoder.register_forward_hook(self._flatten)
        self.on = False

    def _flatten(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.mean(0, keepdim=True) + 1e-3 * output if self.on else output

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.encoder(x))


@pytest.mark.parametrize("start", [0, 12])
def test_collapse_names_the_module_and_the_step(start: int) -> None:
    torch.manual_seed(0)
    model = Sameness()
    monitor = Monitor(model)
    for step in range(20):
        model.on = step >= start
        with monitor.step(samples=32):
            model(torch.randn(32, 8) + 1.0).square().mean().backward()
        model.zero_grad()
    found = [finding for finding in monitor.findings() if finding.rule == "COLLAPSE001"]
    assert [(finding.module, finding.evidence.first_step) for finding in found] == [("encoder", start)]


def test_a_finding_prints_what_is_wrong_where_and_what_to_do() -> None:
    evidence = Evidence("coverage", 0.0, 0.5, 1, 2)
    cut = Finding(
        "GRAD001", Severity.CRITICAL, "encoder", "no gradient", evidence, "detach()", "remove it", code="cut"
    )
    assert str(cut) == (
        "critical: GRAD001 encoder: no gradient\n"
        "  evidence: coverage = 0 (threshold 0.5), steps 1 to 2\n"
        "  likely cause: detach() [cut]\n"
        "  what to do: remove it"
    )
    placed = replace(cut, module="", file="net.py", line=7, consequences=(cut,))
    assert str(placed).startswith("critical: GRAD001 model (net.py:7): no gradient\n")
    assert str(placed).endswith("\n  explains: GRAD001 no gradient (from step 1)")

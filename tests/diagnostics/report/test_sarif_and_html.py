"""SARIF has the structure that its specification demands, HTML is self-contained and escapes, tables align."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from torch import nn

from diagnostics import (
    RULES,
    Evidence,
    Finding,
    Monitor,
    Severity,
    module_table,
    to_html,
    to_sarif,
    to_table,
)

HOSTILE = "<script>alert('x')</script> & more"


def finding(rule: str, severity: Severity, module: str = "encoder.norm", value: float = 0.02) -> Finding:
    evidence = Evidence("coverage", value, 0.5, 3, 9)
    return Finding(rule, severity, module, HOSTILE, evidence, "a cause", "a remedy", code="a-code")


FINDINGS = [
    finding("COV003", Severity.NOTE, module=""),
    finding("COV001", Severity.CRITICAL),
    finding("WASTE001", Severity.WARNING, value=float("nan")),
]


# What sarif-schema-2.1.0.json demands of the parts that are written here: required keys, and of every key
# the type; keys that are not in the schema are not allowed.
SHAPES: dict[str, tuple[set[str], dict[str, Any]]] = {
    "log": ({"version", "runs"}, {"$schema": str, "version": str, "runs": ["run"]}),
    "run": ({"tool"}, {"tool": "tool", "results": ["result"]}),
    "tool": ({"driver"}, {"driver": "component"}),
    "component": ({"name"}, {"name": str, "rules": ["descriptor"]}),
    "descriptor": (
        {"id"},
        {"id": str, "shortDescription": "text", "help": "text", "defaultConfiguration": "configuration"},
    ),
    "configuration": (set(), {"level": str}),
    "text": ({"text"}, {"text": str, "markdown": str}),
    "message": (set(), {"text": str}),
    "result": (
        {"message"},
        {
            "ruleId": str,
            "ruleIndex": int,
            "level": str,
            "message": "message",
            "locations": ["location"],
            "partialFingerprints": dict,
            "properties": dict,
        },
    ),
    "location": (set(), {"logicalLocations": ["logical"], "physicalLocation": "physical"}),
    "logical": (set(), {"name": str, "fullyQualifiedName": str, "kind": str}),
    "physical": ({"artifactLocation"}, {"artifactLocation": "artifact", "region": "region"}),
    "artifact": (set(), {"uri": str}),
    "region": (set(), {"startLine": int}),
}


def check(value: Any, shape: Any) -> None:
    if isinstance(shape, list):
        assert isinstance(value, list)
        for member in value:
            check(member, shape[0])
    elif isinstance(shape, str):
        required, allowed = SHAPES[shape]
        assert required <= value.keys() <= allowed.keys()
        for key, member in value.items():
            check(member, allowed[key])
    else:
        assert type(value) is shape


@pytest.mark.parametrize("artifact", ["", "train.py"])
def test_sarif_has_the_structure_of_its_schema(artifact: str) -> None:
    log = json.loads(to_sarif(FINDINGS, artifact))
    check(log, "log")
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == [rule.id for rule in RULES]
    assert len(set(rules)) == len(rules)
    assert [result["level"] for result in run["results"]] == ["error", "warning", "note"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        assert all(isinstance(value, str) for value in result["partialFingerprints"].values())
        assert ("physicalLocation" in result["locations"][0]) is bool(artifact)
    assert run["results"][1]["properties"]["value"] is None
    assert {result["properties"]["code"] for result in run["results"]} == {"a-code"}
    assert json.loads(to_sarif([]))["runs"][0]["results"] == []


class Page(HTMLParser):
    """Collects tags, attributes and text; counts what is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_stands_alone_and_escapes() -> None:
    page = Page()
    page.feed(to_html(FINDINGS, title=HOSTILE, table="a <b>"))
    assert page.open == []
    assert not {"script", "link", "img", "b"} & set(page.tags)
    assert not {"src", "href"} & page.attributes
    assert page.text.count(HOSTILE) == len(FINDINGS) + 2
    assert "1 critical, 1 warning, 1 note" in page.text
    assert page.text.index("critical: COV001") < page.text.index("note: COV003 model")
    assert "No findings." in to_html([])


def test_table_of_findings_aligns_and_sorts() -> None:
    lines = to_table(FINDINGS).splitlines()
    assert lines[0].split() == ["severity", "rule", "module", "steps", "finding"]
    assert [line.split()[1] for line in lines[2:]] == ["COV001", "WASTE001", "COV003"]
    assert len({line.index(HOSTILE) for line in lines[2:]}) == 1
    assert to_table([]) == "No findings.\n"


def test_module_table_is_in_the_order_of_the_calls() -> None:
    model = nn.ModuleDict({"late": nn.Linear(2, 2), "unused": nn.Linear(2, 2), "early": nn.Linear(2, 2)})
    model["unused"].requires_grad_(False)
    monitor = Monitor(model)
    with monitor.step(samples=3):
        model["late"](model["early"](torch.ones(3, 2)).detach()).sum().backward()
    lines = module_table(monitor.last).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["early", "late", "unused"]
    assert "detached" in lines[2]
    assert "0 of 2" in lines[2]
    assert "0 of 0 (frozen)" in lines[4]


def test_a_module_without_parameters_is_not_called_frozen() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    model[2].requires_grad_(False)
    monitor = Monitor(model)
    with monitor.step(samples=4):
        model(torch.randn(4, 2)).sum().backward()
    cells = [line.split() for line in module_table(monitor.last).splitlines()[2:]]
    assert [" ".join(cell[8:-1]) for cell in cells] == ["2 of 2", "none", "0 of 0 (frozen)"]

"""A rule of a user, from a file outside the package: it takes part in everything, and a wrong object is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import diagnostics.object_loading
from diagnostics import (
    Cause,
    Evidence,
    Finding,
    Monitor,
    Observation,
    Rule,
    Severity,
    audit,
    explain,
    read_baseline,
    to_html,
    to_markdown,
    to_sarif,
    write_baseline,
)
from diagnostics.rules import load
from diagnostics.rules.options import Values
from diagnostics.rules.run_history import RunHistory
from tests.diagnostics.refusals import refused

SOURCE = """
from diagnostics import Cause, Observation, Option, Rule, Severity, lasting

LARGE = Cause("large-output", "the weights are too large")


def check(record, options):
    for name, module in record.modules.items():
        if module.output and module.output.rms > options["above"]:
            yield Observation(name, module.output.rms, f"{name}: its output is {{value}} large", LARGE)


SIZE001 = Rule(
    "SIZE001", Severity.WARNING, "Large outputs", "output_rms", "Make the weights smaller.", check,
    {"above": Option(10.0, 0.0, 1e9, "root mean square", why="inputs are about 1"), **lasting(3)}, "above",
    causes=(LARGE,), what="The output is larger than 10.",
)
NOT_A_RULE = "SIZE001"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_rules.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def rule(file: Path) -> Rule:
    return load(f"{file}:SIZE001")


def train(*rules: Rule, scale: float = 100.0, **options: Any) -> Monitor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4))
    with torch.no_grad():
        model[0].weight.mul_(scale)
    monitor = Monitor(model, rules=rules, **options)
    for _ in range(4):
        with monitor.step(samples=6):
            model(torch.randn(6, 4)).sum().backward()
    return monitor


def findings(monitor: Monitor, **choice: Any) -> list[Finding]:
    return [finding for finding in monitor.findings(**choice) if finding.rule == "SIZE001"]


def test_it_fires_and_does_not_fire_without_the_fault(rule: Rule) -> None:
    (found,) = findings(train(rule))
    assert (found.module, found.code, found.severity) == ("0", "large-output", Severity.WARNING)
    assert found.evidence.threshold == 10.0
    assert found.evidence.value > 10.0
    assert findings(train(rule, scale=1.0)) == []


def test_options_select_ignore_and_baselines_apply_to_it(rule: Rule, tmp_path: Path) -> None:
    monitor = train(rule)
    assert [finding.rule for finding in monitor.findings(select=["SIZE*"])] == ["SIZE001"]
    assert findings(monitor, ignore=["SIZE001:0"]) == []
    write_baseline(tmp_path / "known.json", monitor.findings())
    assert findings(monitor, baseline=read_baseline(tmp_path / "known.json")) == []
    assert findings(train(rule, options={"SIZE001": {"above": 1e6}})) == []
    assert findings(train(rule, options={"SIZE001": {"min_steps": 5}})) == []
    with refused(ValueError, "options.unknown-option", rule="SIZE001", got="belo"):
        train(rule, options={"SIZE001": {"belo": 1.0}})


def test_every_output_shows_it(rule: Rule) -> None:
    found = findings(train(rule))
    assert "SIZE001" in to_markdown(found)
    assert "SIZE001" in to_html(found)
    run = json.loads(to_sarif(found, rules=[rule]))["runs"][0]
    index = run["results"][0]["ruleIndex"]
    assert run["tool"]["driver"]["rules"][index]["id"] == "SIZE001"
    assert "ruleIndex" not in json.loads(to_sarif(found))["runs"][0]["results"][0]
    page = explain(rule)
    assert page.startswith("# SIZE001: Large outputs\n")
    assert "- `above=10` (0..1e+09): root mean square. Inputs are about 1.\n" in page


def test_an_audit_takes_it(rule: Rule) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    with torch.no_grad():
        model[0].weight.mul_(100.0)
    report = audit(
        model, lambda model, batch: model(batch).sum(), [torch.randn(6, 4)], rules=[rule], select=["SIZE001"]
    )
    assert [finding.rule for finding in report.findings] == ["SIZE001"]
    sarif = json.loads(report.render("sarif"))["runs"][0]
    assert sarif["tool"]["driver"]["rules"][-1]["id"] == "SIZE001"


def test_a_rule_without_options_is_reported_at_once() -> None:
    cause = Cause("seen", "it ran")
    bare = Rule(
        "RAN001",
        Severity.NOTE,
        "It ran",
        "calls",
        "Nothing.",
        lambda record, options: [Observation("0", 1.0, "0: it ran", cause)],
        causes=(cause,),
    )
    assert [finding.rule for finding in train(bare).findings(select=["RAN001"])] == ["RAN001"]


def test_a_rule_over_many_steps_sees_the_whole_run() -> None:
    cause = Cause("long", "many steps")

    def count(run: RunHistory, options: Values) -> Iterator[Finding]:
        evidence = Evidence("steps", float(len(run.steps)), None, 0, run.steps[-1].step)
        yield LONG.finding("", f"{len(run.steps)} steps", evidence, cause)

    words = {"title": "Long", "metric": "steps", "remedy": "Stop."}
    LONG = Rule("LONG001", Severity.NOTE, source="history", history_check=count, causes=(cause,), **words)
    (found,) = train(LONG).findings(select=["LONG001"])
    assert (found.evidence.value, found.evidence.last_step) == (4.0, 3)
    with refused(TypeError, "rules.not-a-finding", rule="LONG001", got=0):
        train(remade(LONG, history_check=lambda run, options: [0])).findings()


def test_a_file_a_module_and_an_entry_point_name_the_same_rule(
    file: Path, rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(file.parent))
    assert load("my_rules:SIZE001").id == rule.id
    points = EntryPoints([EntryPoint("size", "my_rules:SIZE001", "etrm.rules")])
    monkeypatch.setattr(diagnostics.object_loading, "entry_points", lambda group: points.select(group=group))
    assert load("size").id == rule.id
    with refused(KeyError, "load.no-entry-point", got="siz", allowed="size"):
        load("siz")


def test_a_file_is_loaded_once_and_may_import_its_neighbours(file: Path) -> None:
    (file.parent / "beside_my_rules.py").write_text("NAME = 'SIZE002'\n")
    other = file.with_name("other_rules.py")
    other.write_text(SOURCE.replace('"SIZE001"', "NAME") + "from beside_my_rules import NAME\n")
    other.write_text("from beside_my_rules import NAME\n" + SOURCE.replace('"SIZE001", Sev', "NAME, Sev"))
    loaded = load(f"{other}:SIZE001")
    assert loaded.id == "SIZE002"
    assert load(f"{other}:SIZE001") is loaded


def wrong_specs(file: Path) -> Iterator[tuple[str, type[Exception], str, dict[str, object]]]:
    yield f"{file}:SIZE002", KeyError, "load.no-name", {"got": "SIZE002"}
    yield f"{file}:NOT_A_RULE", TypeError, "rules.not-a-rule", {"got": "an object of type str"}
    yield f"{file.parent}/absent.py:SIZE001", KeyError, "load.no-file", {}
    yield "no_such_module:SIZE001", KeyError, "load.no-module", {"got": "no_such_module"}


def test_a_wrong_name_or_object_is_refused(file: Path) -> None:
    for spec, kind, code, facts in wrong_specs(file):
        with refused(kind, code, **facts):
            load(spec)


def test_an_error_in_the_file_is_the_users(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n")
    for _ in range(2):  # a broken file is not kept as loaded
        with pytest.raises(ZeroDivisionError):
            load(f"{path}:RULE")


def remade(rule: Rule, **changes: Any) -> Rule:
    return Rule(**{**{name: getattr(rule, name) for name in rule.__dataclass_fields__}, **changes})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"check": None}, "check"),
        ({"causes": ()}, "causes"),
        ({"source": "audit"}, "source"),
        ({"source": "history"}, "history_check"),
        ({"bound": "abov"}, "bound"),
        ({"id": "SIZE*"}, "id"),
    ],
)
def test_a_rule_that_cannot_run_is_refused(rule: Rule, changes: dict[str, Any], field: str) -> None:
    with refused(ValueError, "rules.unusable-rule", field=field):
        train(remade(rule, **changes))


def test_ids_are_unique(rule: Rule) -> None:
    with refused(ValueError, "rules.duplicate-id", got="COV001"):
        train(remade(rule, id="COV001"))


def test_a_class_is_no_rule() -> None:
    with refused(TypeError, "rules.not-a-rule", got="the class Rule"):
        train(Rule)  # type: ignore[arg-type]


def test_a_check_that_gives_something_else_is_refused(rule: Rule) -> None:
    with refused(TypeError, "rules.not-an-observation", rule="SIZE001", got="0"):
        train(remade(rule, check=lambda record, options: ["0"]))


@pytest.mark.parametrize("source", ["step", "history"])
def test_a_rule_that_raises_ends_no_training_and_is_named(rule: Rule, source: str) -> None:
    kind, other = ("check", "history_check")[:: 1 if source == "step" else -1]
    failing = remade(rule, id="SIZE002", source=source, **{kind: lambda *given: 1 / 0, other: None})
    found = train(failing, rule).findings()
    assert [each.rule for each in found if each.rule.startswith("SIZE")] == ["SIZE001"]
    (note,) = [each for each in found if each.code == "rule-failed"]
    assert "SIZE002" in note.message
    assert "ZeroDivisionError: division by zero" in note.cause

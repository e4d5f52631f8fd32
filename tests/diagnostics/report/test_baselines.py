"""Baselines silence what is known, whichever version wrote them; whatever else a file holds is refused."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diagnostics import RULES, Monitor, read_baseline, write_baseline
from diagnostics.findings import fingerprint_of
from diagnostics.report.baseline_version_1 import codes_of
from tests.diagnostics.refusals import refused

OLD = Path(__file__).parent / "baselines" / "version_1.json"
"""Written by `write_baseline` of commit aa7834e: what its own tests found, a finding per rule and cause."""


def modules(monitor: Monitor, baseline: frozenset[str]) -> list[str]:
    return [finding.module for finding in monitor.findings(select=["GRAD001"], baseline=baseline)]


def test_a_baseline_silences_what_is_known_and_nothing_else(monitor: Monitor, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(path, monitor.findings(select=["GRAD001:pooler"]))
    written = json.loads(path.read_text())
    assert written["version"] == 2
    (entry,) = written["findings"]
    assert (entry["rule"], entry["module"], entry["code"]) == ("GRAD001", "pooler", "detached")
    assert read_baseline(path) == {entry["fingerprint"]}
    assert modules(monitor, read_baseline(path)) == ["encoder"]
    assert [each.name for each in tmp_path.iterdir()] == ["baseline.json"]


def test_other_words_are_the_same_finding_and_another_code_is_not(monitor: Monitor, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    found = monitor.findings(select=["GRAD001"])
    write_baseline(path, [replace(each, cause="in other words", message="too") for each in found])
    assert modules(monitor, read_baseline(path)) == []
    write_baseline(path, [replace(each, code="cut-inside") for each in found])
    assert modules(monitor, read_baseline(path)) == ["encoder", "pooler"]


def test_a_baseline_that_the_version_before_wrote_silences_the_same(monitor: Monitor, tmp_path: Path) -> None:
    known = json.loads(OLD.read_text(encoding="utf-8"))
    assert known["version"] == 1
    assert modules(monitor, read_baseline(OLD)) == []  # both were found, detached, by the tests of then
    known["findings"] = [entry for entry in known["findings"] if entry["module"] == "pooler"]
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(known))
    assert modules(monitor, read_baseline(path)) == ["encoder"]


def test_every_cause_of_the_version_before_has_its_code() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for entry in json.loads(OLD.read_text(encoding="utf-8"))["findings"]:
        found[entry["rule"]].update(codes_of(entry["rule"], entry["cause"]))
    assert found == {rule: set(codes.split()) or {""} for rule, codes in EXPECTED.items()}
    assert all(codes <= listed(rule) for rule, codes in found.items() if rule not in OWN)


OWN = ("DEAD001", "MINE001")
"""Rules of a user's own probes, which have no codes."""
EXPECTED = {
    "CALL001": "calls-without-grad calls-without-grad-declared calls-cut",
    "CALL002": "not-used",
    "COLLAPSE001": "swamped equal-at-start first-equal",
    "CONTEXT001": "context-lost",
    "COST001": "module-cost",
    "COV001": "loss-without-gradient samples-cut zero-at-start zero-factor",
    "COV002": "loss-without-gradient samples-cut",
    "COV003": "changed-view other-leading-size opaque-output other-way",
    "DEAD001": "",
    "DRIFT001": "own-weights under-way",
    "FROZEN001": "optimizer-state outside-optimizer running-statistics stale-gradient-frozen trained unknown"
    " weight-decay written-buffer",
    "GRAD001": "detached no-grad",
    "GRAD002": "zero-factor",
    "GRAD003": "requires-grad-false",
    "GRAD004": "zero-grad-missing",
    "GRAD005": "tiny-factor",
    "HALT001": "held logit-constant logit-uninformed never-positive starts-positive",
    "HALT002": "as-measured",
    "LEAK001": "mixes-samples",
    "LOSS001": "some-still",
    "MINE001": "",
    "MODE001": "left-in-evaluation",
    "MOVE001": "cleared-gradient in-no-group no-update set-back zero-rate",
    "MOVE002": "weight-decay",
    "MOVE003": "no-step-inside",
    "MOVE004": "below-eps below-rounding",
    "MOVE005": "overwritten",
    "ORACLE001": "labels-below-one wrong-above-zero",
    "ORIGIN001": "dropped-or-repeated other-samples reordered",
    "REACH001": "not-in-loss replaced-parameter",
    "REACH002": "dead-unit zero-at-start",
    "REACH003": "overflow overflow-elsewhere overflow-in-output",
    "REACH004": "no-effect",
    "REACH005": "plain-tensor unregistered-layers",
    "RULE001": "few-steps no-optimizer no-probe reference-incomplete steps-left-out",
    "SHARE001": "shared-tensor",
    "SPIKE001": "gradient-spikes output-spikes",
    "WASTE001": "rows-dropped",
}


def listed(rule: str) -> set[str]:
    return {cause.code for each in RULES if each.id == rule for cause in each.causes}


@pytest.mark.parametrize(
    ("rule", "sentence", "codes"),
    [
        (
            "GRAD001",
            "cut inside: .item(), argmax, detach() or no_grad() inside its own forward",
            ["cut-inside"],
        ),
        ("FROZEN001", "weight decay", ["weight-decay"]),
        ("FROZEN001", "training: it receives gradient", ["trained-elsewhere"]),
        (
            "MOVE002",
            "weight decay: its gradient is zero, and group 7 decays all of its weights",
            ["weight-decay"],
        ),
        ("LOSS001", "all parameters move", ["all-move"]),
        ("MINE001", "whatever", [""]),
        (
            "SPIKE001",
            "it arises here: modules before it (for a gradient: behind it) are quiet on these steps",
            ["gradient-spikes", "output-spikes"],
        ),
    ],
)
def test_an_entry_of_version_1(tmp_path: Path, rule: str, sentence: str, codes: list[str]) -> None:
    path = tmp_path / "baseline.json"
    entry = {"fingerprint": "0" * 16, "rule": rule, "module": "encoder", "cause": sentence}
    path.write_text(json.dumps({"version": 1, "findings": [entry]}))
    assert read_baseline(path) == {fingerprint_of(rule, "encoder", code) for code in codes}


def test_a_cause_that_version_1_never_had_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    entry = {"fingerprint": "0" * 16, "rule": "GRAD001", "module": "encoder", "cause": "nobody wrote this"}
    path.write_text(json.dumps({"version": 1, "findings": [entry]}))
    facts = {"path": str(path), "rule": "GRAD001", "got": "nobody wrote this"}
    with refused(ValueError, "baseline.unknown-cause", **facts) as caught:
        read_baseline(path)
    assert "--write-baseline" in str(caught.value)  # the next command


@pytest.mark.parametrize(
    ("content", "code", "facts"),
    [
        ("no json", "not-json", {}),
        ("\udcff", "not-json", {}),
        ("[]", "version", {"got": None}),
        ('{"version": 3, "findings": []}', "version", {"got": 3, "expected": 2}),
        ('{"version": 2}', "version", {"got": 2}),
        ('{"version": 2, "findings": [{"rule": "GRAD001"}]}', "damaged", {"number": 0}),
        ('{"version": 1, "findings": [{"fingerprint": "0"}]}', "damaged", {"number": 0}),
        ('{"version": 2, "findings": [3]}', "damaged", {"got": 3}),
    ],
)
def test_a_file_that_is_no_baseline_is_an_error(
    tmp_path: Path, content: str, code: str, facts: dict[str, Any]
) -> None:
    path = tmp_path / "baseline.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with refused(ValueError, f"baseline.{code}", path=str(path), **facts) as caught:
        read_baseline(path)
    assert "--write-baseline" in str(caught.value)

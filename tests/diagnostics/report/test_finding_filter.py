"""Findings are selected, ignored and baselined by rule, module or both."""

from __future__ import annotations

import pytest
import torch

from diagnostics import DriftProbe, Monitor, explain
from tests.diagnostics.refusals import refused
from tests.diagnostics.report.conftest import Cut


def names(monitor: Monitor, **options: list[str]) -> list[str]:
    return [f"{finding.rule} {finding.module}" for finding in monitor.findings(**options)]


def test_rules_modules_and_both_can_be_named(monitor: Monitor) -> None:
    assert names(monitor, select=["GRAD*"]) == ["GRAD001 encoder", "GRAD001 pooler"]
    assert names(monitor, select=["pooler"]) == ["GRAD001 pooler"]
    assert names(monitor, select=["GRAD001:enc*"]) == ["GRAD001 encoder"]
    assert names(monitor, ignore=["RULE001", "pooler.*"]) == ["GRAD001 encoder"]
    assert names(monitor, select=["GRAD*"], ignore=["GRAD001:pooler"]) == ["GRAD001 encoder"]
    assert {name.split()[0] for name in names(monitor)} == {"GRAD001", "RULE001"}


@pytest.mark.parametrize("argument", ["select", "ignore"])
@pytest.mark.parametrize("pattern", ["GRAD01", "GRAD01:pooler", "GRAD001:poler", "poler.*"])
def test_a_pattern_that_names_nothing_is_an_error(monitor: Monitor, argument: str, pattern: str) -> None:
    wrong = next(part for part in pattern.split(":") if part != "GRAD001").removesuffix(".*")
    with refused(ValueError, "selection.no-match", argument=argument, got=wrong):
        monitor.findings(**{argument: [pattern]})


@pytest.mark.parametrize("argument", ["select", "ignore"])
def test_one_pattern_is_not_taken_for_a_list_of_letters(monitor: Monitor, argument: str) -> None:
    with refused(TypeError, "selection.not-a-list", argument=argument, got="encoder.*"):
        monitor.findings(**{argument: "encoder.*"})


def test_the_path_of_a_baseline_is_not_a_baseline(monitor: Monitor) -> None:
    with refused(TypeError, "baseline.not-read", got="known.json"):
        monitor.findings(baseline="known.json")


def test_fingerprints_do_not_change_with_the_number_of_steps(monitor: Monitor) -> None:
    before = {finding.fingerprint for finding in monitor.findings()}
    with monitor.step(samples=3):
        pass
    assert {finding.fingerprint for finding in monitor.findings()} == before


def test_every_finding_can_be_explained(monitor: Monitor) -> None:
    assert all(explain(finding.rule) for finding in monitor.findings())


def test_probes_are_of_watched_modules_and_may_be_given(monitor: Monitor) -> None:
    with refused(KeyError, "selection.not-watched", got="encodr"):
        monitor.probe("encodr", torch.ones(2, 2))
    with refused(KeyError, "selection.not-watched", got="encodr"):
        Monitor(Cut(), drift={"encodr": DriftProbe()})
    probe = DriftProbe(reference_window=2)
    watching = Monitor(Cut(), drift={"encoder": probe})
    record = watching.probe("encoder", torch.randn(3, 4))
    assert probe.records == [record]
    assert record.step == 0

"""Findings are selected, ignored and baselined by rule, module or both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diagnostics import RULES, DriftProbe, Monitor, explain, read_baseline, write_baseline


class Cut(nn.Module):
    """Encoder and pooler are detached; the head trains."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.pooler, self.head = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pooler(x).detach() + self.encoder(x).detach())


@pytest.fixture
def monitor() -> Monitor:
    torch.manual_seed(0)
    model = Cut()
    watching = Monitor(model)
    for _ in range(6):
        with watching.step(samples=3):
            model(torch.randn(3, 4)).sum().backward()
    return watching


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
    with pytest.raises(ValueError, match=f"{argument}: nothing matches '{pattern.split(':')[0][:2]}|poler"):
        monitor.findings(**{argument: [pattern]})


def test_a_baseline_silences_what_is_known_and_nothing_else(monitor: Monitor, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(path, monitor.findings(select=["GRAD001:pooler"]))
    assert '"rule": "GRAD001"' in path.read_text()
    known = read_baseline(path)
    assert len(known) == 1
    assert names(monitor, baseline=known, select=["GRAD*"]) == ["GRAD001 encoder"]


@pytest.mark.parametrize("content", ["[]", "no json", '{"version": 2, "findings": []}'])
def test_a_file_that_is_no_baseline_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="is no baseline file"):
        read_baseline(path)


def test_fingerprints_do_not_change_with_the_number_of_steps(monitor: Monitor) -> None:
    before = {finding.fingerprint for finding in monitor.findings()}
    with monitor.step(samples=3):
        pass
    assert {finding.fingerprint for finding in monitor.findings()} == before


def test_every_finding_can_be_explained(monitor: Monitor) -> None:
    assert all(explain(finding.rule) for finding in monitor.findings())
    assert all("speak" in explain(rule.id) for rule in RULES)


def test_probes_are_of_watched_modules_and_may_be_given(monitor: Monitor) -> None:
    with pytest.raises(KeyError, match="'encodr' is not watched"):
        monitor.probe("encodr", torch.ones(2, 2))
    with pytest.raises(KeyError, match="'encodr' is not watched"):
        Monitor(Cut(), drift={"encodr": DriftProbe()})
    probe = DriftProbe(reference_window=2)
    watching = Monitor(Cut(), drift={"encoder": probe})
    record = watching.probe("encoder", torch.randn(3, 4))
    assert probe.records == [record]
    assert record.step == 0

"""What no hypothesis is about is found in the subject's own runs, and nothing in healthy ones."""

from __future__ import annotations

from typing import Any

import pytest

from etrm.config import with_settings
from etrm.investigation.controls import control_arm, subject_arm
from etrm.investigation.measurements import additional_findings
from etrm.investigation.measurements.additional_findings import gather_additional_findings
from etrm.investigation.runs.jobs import Job
from etrm.investigation.session import Investigation, with_seed
from tests.investigation.planted import planted


@pytest.mark.parametrize(
    ("settings", "expected", "facts"),
    [
        ({"faults": ("encode-all-discard",)}, ("CALL001", "encoder"), ("1", "2")),
        ({"faults": ("halting-stuck",)}, ("HALT001", ""), ("-50", "12")),
        ({}, None, ()),
        pytest.param({"model": {"variant": "etrm_fct"}}, None, (), marks=pytest.mark.slow),
    ],
)
def test_cost_and_halting_are_found(
    investigation: Investigation,
    settings: dict[str, Any],
    expected: tuple[str, str] | None,
    facts: tuple[str, ...],
) -> None:
    config = with_settings(investigation.subject, **settings, train={"steps": 6})
    jobs = [Job(subject_arm("h2"), seed, with_seed(config, seed)) for seed in (0, 1)]
    investigation.run(
        "H2", [*jobs, Job(control_arm("h2"), 0, with_seed(config, 2))]
    )  # a control is not under test
    found = gather_additional_findings(investigation.finished_under_test())
    assert [(f.rule, f.module) for f in found] == ([expected] if expected else [])
    assert all(fact in f.message for f in found for fact in facts)
    assert all(f.n.startswith("2 of 2") for f in found)


def test_runs_are_counted_and_not_their_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two findings of one rule in one module were counted as two runs."""
    monkeypatch.setattr(additional_findings, "_check_halting", lambda run: [])
    finding = dict.fromkeys(("message", "cause", "remedy"), "planted") | {"severity": "warning"}
    one = finding | {"rule": "REACH001", "module": "encoder"}
    first, second = planted(subject_arm("h2"), [1.0, 1.0])
    first.__dict__["findings"], second.__dict__["findings"] = [one | {"code": "a"}, one | {"code": "b"}], []
    (found,) = gather_additional_findings([[first, second]])
    assert found.n == "1 of 2 runs"


def test_without_runs_there_is_nothing_to_say(investigation: Investigation) -> None:
    assert gather_additional_findings(investigation.finished_under_test()) == ()

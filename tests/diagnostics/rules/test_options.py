"""Numbers of rules can be set by name, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from diagnostics import Monitor
from diagnostics.rules.options import settle
from diagnostics.rules.registry import built_in_rules, options_of
from tests.diagnostics.refusals import refused

OPTIONS = options_of(built_in_rules())


def test_what_is_not_given_has_its_default() -> None:
    values = settle(OPTIONS, {"COV001": {"below": 0.3}})
    assert values["COV001"] == {"below": 0.3, "min_steps": 5.0, "share": 0.6}
    assert values["COV002"] == settle(OPTIONS)["COV002"]
    assert values["RULE001"] == {}


@pytest.mark.parametrize("rule", OPTIONS)
def test_defaults_are_within_their_bounds(rule: str) -> None:
    settle(OPTIONS, {rule: {name: option.default for name, option in OPTIONS[rule].items()}})


@pytest.mark.parametrize(
    ("options", "code", "facts", "shown"),
    [
        ({"COV01": {}}, "unknown-rule", {"got": "COV01"}, "COV001"),
        ({"COV001": {"belo": 0.3}}, "unknown-option", {"rule": "COV001", "got": "belo"}, "below"),
        ({"RULE001": {"min_steps": 3}}, "unknown-option", {"rule": "RULE001", "got": "min_steps"}, ""),
        (
            {"COV001": {"below": 1.5}},
            "not-allowed",
            {"name": "COV001.below", "low": 0.0, "high": 1.0, "got": 1.5},
            "1.5",
        ),
        ({"COV001": {"below": float("nan")}}, "not-allowed", {"name": "COV001.below"}, "nan"),
        ({"COV001": {"below": True}}, "not-allowed", {"got": True}, "True"),
        ({"COV001": {"below": "0.3"}}, "not-allowed", {"got": "0.3"}, "'0.3'"),
        ({"COV001": {"min_steps": 2.5}}, "not-allowed", {"low": 1, "got": 2.5}, "COV001.min_steps"),
    ],
)
def test_anything_else_is_an_error(options: Any, code: str, facts: dict[str, Any], shown: str) -> None:
    with refused(ValueError, f"options.{code}", **facts) as caught:
        Monitor(nn.Sequential(nn.Linear(2, 2)), options=options)
    assert shown in str(caught.value)


def half_covered(**options: Any) -> Monitor:
    """A layer that passes gradient to half of the samples."""
    model = nn.Sequential(nn.Linear(4, 4))
    monitor = Monitor(model, options=options)
    for _ in range(12):
        with monitor.step(samples=4):
            model(torch.randn(4, 4))[:2].sum().backward()
    return monitor


def test_a_threshold_decides_and_stands_in_the_evidence() -> None:
    assert {finding.rule for finding in half_covered().findings(select=["COV*"])} == {"COV002"}
    (found,) = half_covered(COV001={"below": 0.6}).findings(select=["COV001"])
    assert found.evidence.threshold == 0.6
    assert not half_covered(COV002={"below": 0.5}).findings(select=["COV*"])


def test_options_of_the_probe_reach_it() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    monitor = Monitor(model, options={"DRIFT001": {"reference": 2}})
    for step in range(2):
        with monitor.step(samples=4):
            model(torch.randn(4, 4)).sum().backward()
        record = monitor.probe("0", torch.randn(4, 4))
        assert (record.wasserstein is None) == (step == 0)

"""Verdicts are announced once, and only those that nothing can change."""

from __future__ import annotations

from etrm.investigation.announced_verdicts import AnnouncedVerdicts
from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses
from etrm.investigation.records import Verdict
from etrm.investigation.result import HypothesisResult


def test_a_verdict_is_told_once_and_keeps_the_time_when_it_was_known() -> None:
    heard: list[HypothesisResult] = []
    announced = AnnouncedVerdicts(heard.append)
    found = all_hypotheses()["H2"].not_run("test.planted", "planted").replace(verdict=Verdict.VALIDATED)
    first = announced.reach(found)
    again = announced.reach(found.replace(sentence="with more evidence"))
    assert heard == [first]
    assert first.decided_after_s is not None
    assert (again.decided_after_s, again.sentence) == (first.decided_after_s, "with more evidence")
    assert announced.elapsed >= first.decided_after_s - 0.1  # which is rounded


def test_a_verdict_that_a_correction_may_change_is_not_told() -> None:
    heard: list[HypothesisResult] = []
    found = all_hypotheses()["H4"].not_run("test.planted", "planted").replace(p_value=0.01)
    assert AnnouncedVerdicts(heard.append).reach(found).decided_after_s is not None
    assert heard == []

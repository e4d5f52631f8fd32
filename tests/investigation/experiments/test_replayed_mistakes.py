"""Each mistake of the original, made again for real on the smoke preset, is caught, and the right way is not."""

from __future__ import annotations

import pytest

from etrm.config import with_settings
from etrm.errors import ConfigError
from etrm.investigation.evidence.table import EvidenceRow, Metric
from etrm.investigation.experiments import replayed_mistakes as original
from etrm.investigation.result import ExperimentResult, Scenario
from etrm.investigation.session import Investigation
from tests.errors import raises_code


@pytest.fixture
def found(investigation: Investigation) -> ExperimentResult:
    return original.run(investigation, original.chosen(["all"]))


def row(found: ExperimentResult, metric: Metric) -> EvidenceRow:
    (one,) = [row for row in found.evidence if row.code == metric.code]
    return one


def test_every_mistake_is_read_as_the_original_read_it_and_caught(found: ExperimentResult) -> None:
    assert found.scenario is Scenario.CAUGHT
    assert found.codes == (original.OriginalReason.ALL_CAUGHT,)
    assert {row.code.split(".")[1].split("-")[0] for row in found.evidence} == set(original.MISTAKES)
    assert row(found, original.NORM_AFTER).treatment == pytest.approx(original.CLIP_NORM, rel=1e-3)
    assert row(found, original.NORM_AT_LIMIT).control == 0
    steps = found.runs[0].steps
    assert row(found, original.WITH_GRADIENT).treatment == steps
    assert row(found, original.WITHOUT_MOVEMENT).treatment == steps
    assert row(found, original.TENSORS_EQUAL).treatment == 10  # all of them: nothing looks wrong
    settings = row(found, original.SETTINGS_DIFFER)
    assert (settings.treatment, settings.passed) == (1, False)
    assert all(fact in settings.n for fact in ("L_cycles", "1", "3"))
    assert row(found, original.SCORE_LEFT_OPEN).treatment == pytest.approx(1 - 0.025**0.25)
    assert row(found, original.NORM_TRAINED).treatment == pytest.approx(32**0.5, rel=1e-3)
    assert {run.arm for run in found.runs} == {original.SHORT.name, original.SKIPPED.name}


def test_a_check_that_does_not_fail_is_no_catch(
    investigation: Investigation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(original, "CLIP_NORM", 1000.0)  # never acts: what is logged after it is right
    found = original.run(investigation, original.chosen(["norms"]))
    assert (found.scenario, found.codes) == (Scenario.MISSED, (original.OriginalReason.MISSED,))
    assert row(found, original.NORM_AT_LIMIT).passed
    assert row(found, original.NORM_AFTER).treatment == row(found, original.NORM_BEFORE).treatment


def test_names_are_checked_and_kept_in_order() -> None:
    assert [mistake.name for mistake in original.chosen(["tasks", "norms"])] == ["norms", "tasks"]
    assert len(original.chosen(["all"])) == 5
    with raises_code(ConfigError, "experiment.unknown-mistake", repr("loss")):
        original.chosen(["loss"])


def test_a_run_that_fails_shows_nothing(investigation: Investigation) -> None:
    investigation.subject = with_settings(investigation.subject, train={"lr": 1e30})
    with raises_code(ConfigError, "experiment.failed-run"):
        original.run(investigation, original.chosen(["norms"]))

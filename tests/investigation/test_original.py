"""Each mistake of the original, made again for real on the smoke preset, is caught, and the right way is not."""

from __future__ import annotations

import pytest

from etrm.config import with_overrides
from etrm.errors import ConfigError
from etrm.investigation import original
from etrm.investigation.protocol import Investigation
from etrm.investigation.result import Evidence, Experiment
from tests.errors import raises_code


@pytest.fixture
def found(investigation: Investigation) -> Experiment:
    return original.run(investigation, original.chosen(["all"]))


def row(found: Experiment, words: str) -> Evidence:
    (one,) = [row for row in found.evidence if words in row.metric]
    return one


def test_every_mistake_is_read_as_the_original_read_it_and_caught(found: Experiment) -> None:
    assert found.scenario == "caught"
    assert "5 of 5" in found.sentence
    assert row(found, "as logged after clipping").treatment == pytest.approx(original.CLIP_NORM, rel=1e-3)
    assert row(found, "clipping limit itself").control == 0
    assert row(found, "with an encoder gradient").treatment == original.STEPS
    assert row(found, "no encoder weight has moved").treatment == original.STEPS
    assert row(found, "core tensors equal").treatment == 10  # all of them: nothing looks wrong
    assert "runs with 3" in row(found, "settings without weights").n
    assert row(found, "score that 0 solved leaves open").treatment == pytest.approx(1 - 0.025**0.25)
    assert row(found, "mean norm of a context token, trained").treatment == pytest.approx(32**0.5, rel=1e-3)
    assert {run.arm for run in found.runs} == {original.SHORT, original.SKIPPED}


def test_a_check_that_does_not_fail_is_no_catch(
    investigation: Investigation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(original, "CLIP_NORM", 1000.0)  # never acts: what is logged after it is right
    found = original.run(investigation, original.chosen(["norms"]))
    assert found.scenario == "missed"
    assert "not: norms" in found.sentence
    assert row(found, "as logged after").treatment == row(found, "before clipping, median").treatment


def test_names_are_checked_and_kept_in_order() -> None:
    assert [mistake.name for mistake in original.chosen(["tasks", "norms"])] == ["norms", "tasks"]
    assert len(original.chosen(["all"])) == 5
    with raises_code(ConfigError, "experiment.unknown-mistake", repr("loss")):
        original.chosen(["loss"])


def test_a_run_that_fails_shows_nothing(investigation: Investigation) -> None:
    investigation.subject = with_overrides(investigation.subject, ("train.lr=1e30",))
    with raises_code(ConfigError, "experiment.failed-run"):
        original.run(investigation, original.chosen(["norms"]))

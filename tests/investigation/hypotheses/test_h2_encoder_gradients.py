"""H2 is decided on every step: one bad step among many is enough, and none is invented."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etrm.config import with_settings
from etrm.investigation.comparison.gradient_check import SlopeCheck
from etrm.investigation.controls import control_arm
from etrm.investigation.hypotheses import h2_encoder_gradients as h2
from etrm.investigation.measurements.encoder_gradients import (
    GradientReason,
    follows_replaced_weights,
    gather,
)
from etrm.investigation.records import NotMeasured, Verdict
from etrm.investigation.runs.jobs import Job
from etrm.investigation.session import Investigation
from tests.investigation.planted import planted
from tests.sampled import one_in


def step(number: int, **changes: Any) -> dict[str, Any]:
    """A healthy logged step, with some values changed."""
    values = {
        "step": number,
        "loss": 1.0,
        "reset_share": 0.25,
        "encoder.coverage": 1.0,
        "encoder.waste": 0.0,
        "encoder.calls": 1,
        "encoder.calls_with_gradient": 1,
        "encoder.grad_norm_pre_clip": 0.5,
        "encoder.moved": 1e-3,
        "encoder.params_idle": 0,
    }
    return values | {key.replace("__", "."): value for key, value in changes.items()}


@given(
    bad=st.integers(0, 19),
    change=st.sampled_from(
        [
            {"encoder__coverage": 0.9375},
            {"encoder__coverage": None},
            {"encoder__grad_norm_pre_clip": 0.0},
            {"encoder__moved": 0.0},
            {"encoder__params_idle": 1},
        ]
    ),
)
def test_one_bad_step_validates(bad: int, change: dict[str, Any]) -> None:
    steps = [step(i, **(change if i == bad else {})) for i in range(20)]
    assert gather(steps).holds


def test_gradients_that_fail_after_the_weights_were_replaced_may_be_the_fault_of_the_rate() -> None:
    huge, bad, healthy = {"core__moved": 30.0}, {"encoder__coverage": 0.9}, [step(0), step(1)]
    assert follows_replaced_weights([[step(0, **huge), step(1, **bad)], healthy])
    for blamed in (
        [step(0), step(1, **bad)],  # no step was huge
        [step(0, **huge, **bad), step(1)],  # the gradients came before the step
        [step(0, **bad), step(1, **huge), step(2, **bad)],
    ):
        assert not follows_replaced_weights([[step(0, **huge), step(1, **bad)], blamed])
    assert not follows_replaced_weights([[step(0, **huge), step(1)]])  # nothing failed


def test_steps_in_which_the_settings_freeze_the_encoder_accuse_nobody() -> None:
    idle = {"encoder__coverage": None, "encoder__grad_norm_pre_clip": None, "encoder__moved": 0.0}
    staged = [step(i, frozen="encoder", **idle) for i in range(5)] + [step(i) for i in range(5, 9)]
    facts = gather(staged)
    assert not facts.holds
    assert (facts.steps, facts.finite) == (4, True)
    assert gather([step(i, frozen="decoder", **idle) for i in range(5)]).holds


def test_steps_that_are_not_finite_accuse_nobody() -> None:
    broken = step(1, encoder__moved=None, nonfinite=["encoder.moved"])
    facts = gather([step(0), broken])
    assert not facts.holds
    assert not facts.finite


def test_an_encoder_that_starts_from_zeros_moves() -> None:
    """Its first step has no distance relative to its weights."""
    facts = gather([step(0, encoder__moved=None), step(1)])
    assert not facts.holds
    assert facts.moved_low == 1e-3
    assert gather([step(0, encoder__moved=None, encoder__params_idle=1), step(1)]).holds


@pytest.mark.parametrize(
    ("idle", "own", "holds"), [((7, 0), True, False), ((7, 0), False, True), ((7, 1), True, True)]
)
def test_a_tensor_of_an_encoder_from_outside_may_wait(idle: tuple[int, int], own: bool, holds: bool) -> None:
    """Behind a last layer that begins at zero, or for rows that other batches have."""
    steps = [step(number, encoder__params_idle=count) for number, count in enumerate(idle)]
    assert gather(steps, own_encoder=own).holds is holds


def test_healthy_steps_do_not_validate_and_the_words_say_so() -> None:
    facts = gather([step(i) for i in range(20)])
    assert not facts.holds
    assert (facts.codes, facts.steps) == ((GradientReason.EVERY_STEP_TRAINS,), 20)


def test_gradient_without_movement_is_said_as_such() -> None:
    facts = gather([step(i, encoder__moved=0.0) for i in range(5)])
    assert (facts.codes, facts.without_movement) == ((GradientReason.NO_MOVEMENT,), 5)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"encoder__coverage": 0.9375}, GradientReason.COVERAGE_BELOW_ONE),
        ({"encoder__coverage": None}, GradientReason.COVERAGE_BELOW_ONE),
        ({"encoder__grad_norm_pre_clip": 0.0}, GradientReason.NO_GRADIENT),
        ({"encoder__moved": 0.0}, GradientReason.NO_MOVEMENT),
        ({"encoder__params_idle": 1}, GradientReason.IDLE_TENSORS),
    ],
)
def test_each_reason_has_its_code(change: dict[str, Any], code: GradientReason) -> None:
    assert gather([step(0), step(1, **change)]).codes == (code,)


def test_a_finding_row_counts_seeds_and_the_steps_of_the_log() -> None:
    """The toolkit counts steps from 0, and a run may have several findings of a rule in a module."""
    finding = dict.fromkeys(("message", "cause", "remedy"), "planted") | {
        "rule": "REACH001",
        "module": "encoder",
    }
    finding |= {"severity": "warning"}
    evidence = {"metric": "share", "value": 0.5, "first_step": 0, "last_step": 19}
    first, second = planted(control_arm("h2"), [1.0, 1.0])
    first.__dict__["findings"], second.__dict__["findings"] = [finding | {"evidence": evidence}] * 2, []
    (row,) = h2._make_finding_rows([first, second])
    assert (row.threshold, row.n) == ("1 of 2 seeds, warning", "steps 1 to 20")


def test_norms_logged_after_clipping_are_seen_for_what_they_are() -> None:
    honest = {
        "encoder__grad_norm_pre_clip": 3.0,
        "encoder__grad_norm_post_clip": 0.75,
        "grad_norm_before_clip": 4.0,
    }
    assert h2._compare_clipping([step(0, **honest)], 1.0) == (1, 0)
    assert h2._compare_clipping([step(0, **honest | {"encoder__grad_norm_pre_clip": 0.75})], 1.0) == (1, 1)
    assert h2._compare_clipping([step(0, **honest | {"encoder__grad_norm_post_clip": None})], 1.0) == (0, 0)


@pytest.mark.parametrize("name", one_in(2, h2.HYPOTHESIS.controls))
def test_the_numbers_of_each_control(investigation: Investigation, name: str) -> None:
    # the rules of the toolkit wait for more steps than other tests need
    config = with_settings(investigation.control_config([name]), train={"steps": 20})
    (run,) = investigation.run("H2", [Job(control_arm("h2", name), 0, config)])
    metrics = run.metrics
    facts = gather(metrics)
    assert facts.holds
    found = h2._make_finding_rows([run])
    rules = {row.item.split()[0] for row in found}
    assert {row.code for row in found} <= {h2.TOOLKIT_FINDING.code}
    assert (
        rules
        == {"cached-context": {"COV001"}, "encoder-frozen": set(), "freeze-skips-optimizer": {"MOVE003"}}[
            name
        ]
    )
    if name == "cached-context":
        # Coverage is the share of rows that reset, on every single step.
        assert [m["encoder.coverage"] for m in metrics] == [m["reset_share"] for m in metrics]
        assert 0 < facts.coverage_mean < 1
    if name == "encoder-frozen":
        assert facts.uncovered_steps == facts.steps
    if name == "freeze-skips-optimizer":
        assert facts.coverage_low == 1
        assert facts.without_gradient == 0
        assert facts.without_movement == facts.steps


def test_a_healthy_subject_is_invalidated_with_every_control_behaving(investigation: Investigation) -> None:
    found = h2.HYPOTHESIS.decide(investigation)
    assert found.verdict is Verdict.INVALIDATED
    assert found.codes == (GradientReason.EVERY_STEP_TRAINS,)
    rows = {row.code: row for row in found.evidence}
    assert rows["h2.coverage-lowest"].treatment == 1
    assert rows["h2.uncovered-steps"].treatment == 0
    assert [c.behaved for c in found.controls] == [True] * 4
    assert all(check.passed for check in found.instruments)
    assert h2.TOOLKIT_FINDING.code not in rows  # it does not fire on a healthy run
    assert {s.figure for s in found.series} == {figure.key for figure in found.figures}


def test_a_trm_has_no_encoder_to_ask_about(investigation: Investigation) -> None:

    investigation.subject = with_settings(
        investigation.subject, model={"variant": "trm"}, data={"augmentations": 1}, train={"decoder": None}
    )
    assert h2.HYPOTHESIS.decide(investigation).verdict is Verdict.NOT_RUN


def test_what_was_not_measured_passes_nothing() -> None:
    rows = {row.code: row for row in h2._make_step_rows(gather([]), 1)}
    assert isinstance(rows["h2.coverage-lowest"].treatment, NotMeasured)
    assert rows["h2.coverage-lowest"].passed is None


def test_bad_steps_are_counted_in_rows_that_fail() -> None:
    steps = [
        step(0),
        step(1, encoder__coverage=0.5),
        step(2, encoder__coverage=0.75),
        step(3, encoder__moved=0.0),
    ]
    rows = {row.code: row for row in h2._make_step_rows(gather(steps), 1)}
    counted = {
        "h2.uncovered-steps": 2,
        "h2.steps-without-movement": 1,
        "h2.steps-without-gradient": 0,
        "h2.idle-tensors": 0,
    }
    assert {code: rows[code].treatment for code in counted} == counted
    assert {code: rows[code].passed for code in counted} == {
        code: count == 0 for code, count in counted.items()
    }
    assert (rows["h2.coverage-lowest"].treatment, rows["h2.coverage-lowest"].passed) == (0.5, False)


@pytest.mark.parametrize(
    ("claimed", "measured", "value", "passed"),
    [(2.0, 1.0, 2.0, True), (2.0, -1.0, -2.0, False), (2.0, 0.0, None, False), (2.0, None, None, None)],
)
def test_a_slope_is_a_number_or_says_why_not(
    claimed: float, measured: float | None, value: float | None, passed: bool | None
) -> None:
    row = h2._make_slope_rows(SlopeCheck(claimed, measured, frozen=0, tensors=3), seeds=1)[0]
    assert isinstance(row.treatment, NotMeasured) if value is None else row.treatment == value
    assert row.passed is passed


def test_without_a_check_there_is_no_slope() -> None:
    [row] = h2._make_slope_rows(None, seeds=1)
    assert isinstance(row.treatment, NotMeasured)
    assert row.passed is None

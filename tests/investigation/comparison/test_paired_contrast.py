"""The registered rule on planted numbers, against its closed form and its own invariances."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etrm.evaluation.statistics import PairedInterval
from etrm.investigation.comparison.paired_contrast import (
    KNOWS_NOTHING,
    LARGEST_P,
    SMALLEST_LOSS,
    Contrast,
    compare_log_losses,
    compare_losses,
    compare_runs,
    compare_treatments,
    describe_change,
)
from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.records import NotMeasured, Verdict
from etrm.investigation.runs.arms import ArmId
from tests.investigation.planted import DIVERGED, planted

M = 0.1
LOSS = Metric("test.loss", "loss: {item}", Direction.LOWER)
T_QUANTILES = {2: 6.313752, 3: 2.919986, 5: 2.131847, 8: 1.894579}
"""Student's t at .95 with n - 1 degrees of freedom, from printed tables."""

effects_of = st.integers(2, 8).flatmap(
    lambda n: st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=n, max_size=n)
)


def contrast(effects: Sequence[float], name: str = "a change") -> Contrast:
    return compare_losses(name, [(2.0, 2.0 - effect) for effect in effects], M)


def test_an_effect_is_control_minus_treatment_and_a_gain_is_positive() -> None:
    found = compare_losses("x", [(2.0, 1.5), (1.0, 0.9)], M)
    assert found.effects == pytest.approx((0.5, 0.1))
    assert (found.control, found.treatment) == pytest.approx((1.5, 1.2))


@pytest.mark.parametrize("n", sorted(T_QUANTILES))
def test_the_interval_is_the_closed_form(n: int) -> None:
    effects = [0.3 + 0.01 * (i % 3) for i in range(n)]
    mean = sum(effects) / n
    deviation = math.sqrt(sum((e - mean) ** 2 for e in effects) / (n - 1))
    half = T_QUANTILES[n] * deviation / math.sqrt(n)
    interval = contrast(effects).interval
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((mean - half, mean + half), abs=1e-5)


def test_logarithms_make_an_effect_a_ratio_whatever_the_unit() -> None:
    pairs = [(2.0, 1.0), (3.0, 1.5)]
    nats = compare_log_losses("x", pairs, M)
    bits = compare_log_losses("x", [(a / math.log(2), b / math.log(2)) for a, b in pairs], M)
    assert nats.effects == pytest.approx((math.log(2), math.log(2)))
    assert bits.effects == pytest.approx(nats.effects)
    assert nats.control == pytest.approx(math.sqrt(6))


def test_a_run_that_diverged_scores_worst_and_is_not_dropped() -> None:
    found = compare_runs(
        "x", planted(ArmId("a"), [1.0, 1.0]), planted(ArmId("b"), [0.5, DIVERGED]), "loss_end", M
    )
    assert found.effects == pytest.approx((math.log(2), -math.log(KNOWS_NOTHING)))
    worse = compare_runs(
        "x", planted(ArmId("a"), [1.0, 9.0]), planted(ArmId("b"), [0.5, DIVERGED]), "loss_end", M
    )
    assert worse.effects[1] == 0.0, "no better than the worst loss of the comparison"
    cured = compare_runs(
        "x", planted(ArmId("a"), [DIVERGED] * 2), planted(ArmId("b"), [1.0, 1.1]), "loss_end", M
    )
    assert min(cured.effects) > 0


def test_a_loss_of_zero_has_a_finite_effect() -> None:
    """Softmax gives it for answers that the model is sure of; its logarithm ended the hypothesis in an error."""
    found = compare_log_losses("sure", [(0.0, 0.0), (0.5, 0.0)], 0.25)
    assert found.effects == (0.0, pytest.approx(math.log(0.5 / SMALLEST_LOSS)))


def test_a_run_that_failed_otherwise_has_no_pair() -> None:
    found = compare_runs(
        "x", planted(ArmId("a"), [1.0, 1.0, None]), planted(ArmId("b"), [0.5, None, 0.5]), "loss_end", M
    )
    assert found.effects == pytest.approx((math.log(2),))
    assert found.interval is None


def test_without_a_pair_nothing_is_claimed() -> None:
    empty = compare_runs("x", planted(ArmId("a"), [1.0]), planted(ArmId("b"), [None]), "loss_end", M)
    outcome = compare_treatments([empty])
    assert (outcome.verdict, outcome.gained) == (Verdict.INCONCLUSIVE, False)
    row = outcome.rows(LOSS)[0]
    assert isinstance(row.treatment, NotMeasured)
    assert row.passed is row.low is row.high is None


@settings(max_examples=20)  # an interval is some milliseconds of bisection
@given(effects_of)
def test_the_verdict_is_the_rule_as_written(effects: list[float]) -> None:
    found = contrast(effects)
    interval = found.interval
    assert interval is not None
    outcome = compare_treatments([found])
    gain = interval.low > 0 and interval.mean >= M
    if gain and len(effects) >= 5:
        assert (outcome.verdict, outcome.candidate) == (Verdict.VALIDATED, False)
    elif gain:
        assert (outcome.verdict, outcome.candidate) == (Verdict.INCONCLUSIVE, True)
    elif interval.high < M:
        assert (outcome.verdict, outcome.candidate) == (Verdict.INVALIDATED, False)
    else:
        assert (outcome.verdict, outcome.candidate) == (Verdict.INCONCLUSIVE, False)
    assert (found.lower, found.not_lower) == (gain, not gain and interval.high < M)


@settings(max_examples=10)
@given(st.lists(effects_of, min_size=1, max_size=4))
def test_the_order_of_treatments_decides_nothing(several: list[list[float]]) -> None:
    found = [contrast(effects, str(i)) for i, effects in enumerate(several)]
    one, other = compare_treatments(found), compare_treatments(found[::-1])
    assert (one.verdict, one.gained, one.p_value) == (other.verdict, other.gained, other.p_value)


@settings(max_examples=10)
@given(st.lists(effects_of, min_size=1, max_size=4))
def test_all_must_be_ruled_out_and_one_gain_is_enough(several: list[list[float]]) -> None:
    found = [contrast(effects) for effects in several]
    outcome = compare_treatments(found)
    assert (outcome.verdict is Verdict.INVALIDATED) == all(c.not_lower for c in found)
    assert outcome.gained <= any(c.lower for c in found)
    if len(found) == 1 or outcome.candidate:
        assert outcome.best.lower == outcome.gained


def test_a_sure_gain_that_is_too_small_does_not_matter() -> None:
    small = contrast([0.05, 0.05, 0.051])
    assert (small.lower, small.not_lower) == (False, True)
    assert compare_treatments([small]).verdict is Verdict.INVALIDATED


def test_of_several_gains_the_largest_is_named() -> None:
    found = [
        contrast([0.2, 0.21, 0.22], "small"),
        contrast([0.5, 0.51, 0.52], "large"),
        contrast([0, 0, 0.0]),
    ]
    assert compare_treatments(found).best.name == "large"


def test_what_passes_alone_may_fail_among_six() -> None:
    passing = contrast([0.05, 0.1, 0.15, 0.3, 0.02], "passes alone")
    assert compare_treatments([passing]).verdict is Verdict.VALIDATED
    nothing = [contrast([0.01, -0.01, 0.0, 0.02, -0.02]) for _ in range(5)]
    outcome = compare_treatments([passing, *nothing])
    assert (outcome.verdict, outcome.candidate) == (Verdict.INCONCLUSIVE, False)
    assert outcome.p_value == pytest.approx(6 * compare_treatments([passing]).p_value)
    assert outcome.decisions[0].verdict == "INCONCLUSIVE"
    assert outcome.p_value > LARGEST_P > compare_treatments([passing]).p_value


def test_the_change_is_said_in_per_cent_of_the_loss() -> None:
    halved = compare_log_losses("x", [(2.0, 1.0), (3.0, 1.5)], M)
    assert halved.change == "-50 % [-50 %, -50 %]"
    assert compare_log_losses("x", [(1.0, 1.1)], M).change == "+10 % (one seed, no interval)"


def test_seeds_that_would_settle_it_are_named_where_they_are_known() -> None:
    found = compare_treatments([contrast([0.4, -0.2, 0.4])])
    assert found.seeds_needed == found.decisions[0].seeds_needed
    assert found.seeds_needed is not None
    assert found.seeds_needed > 3
    assert compare_treatments([contrast([0.4])]).seeds_needed is None
    assert compare_treatments([contrast([0.4]), contrast([0.4, -0.2, 0.4])]).seeds_needed is None


def test_rows_say_what_a_healthy_subject_passes() -> None:
    effects = {"none": [0, 0, 0.0], "gain": [0.5, 0.5, 0.51], "open": [0.4, -0.2, 0.1]}
    outcome = compare_treatments([contrast(found, name) for name, found in effects.items()])
    assert [row.item for row in outcome.rows(LOSS)] == ["gain", "none", "open"]
    assert [row.passed for row in outcome.rows(LOSS)] == [False, True, None], "the one that decides first"


def test_a_loss_that_is_higher_is_not_said_to_be_lower_by_less_than_nothing() -> None:
    interval = compare_losses("x", [(2.0, 1.5), (1.0, 0.9)], M).interval
    assert isinstance(interval, PairedInterval)
    assert (
        describe_change(interval) == "lower by 0.300 [-0.963, 1.563]"
    )  # t of 1 degree of freedom: .2 * 6.3138
    turned = compare_losses("x", [(1.5, 2.0), (0.9, 1.0)], M).interval
    assert isinstance(turned, PairedInterval)
    assert describe_change(turned) == "higher by 0.300 [-0.963, 1.563]"


def test_comparisons_that_were_planned_and_not_made_count_in_holms_correction() -> None:
    found = compare_log_losses("x", [(1.0, 0.5), (1.1, 0.7), (0.9, 0.5), (1.0, 0.9), (1.2, 0.8)], 0.1)
    alone = compare_treatments([found]).p_value
    assert compare_treatments([found], planned=4).p_value == pytest.approx(4 * alone)
    assert compare_treatments([found], planned=1).p_value == alone
    assert compare_treatments([found]).p_values == (alone,)
    assert len(compare_treatments([found], planned=4).p_values) == 1

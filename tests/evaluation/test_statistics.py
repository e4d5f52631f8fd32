"""Intervals against published tables, brute force and their own coverage."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from etrm.errors import ArgumentError
from etrm.evaluation.statistics import (
    PairedInterval,
    binomial_interval,
    count_seeds_needed,
    decide,
    holm,
    paired_t_interval,
    t_quantile,
)
from tests.errors import raises_code


@pytest.mark.parametrize(
    ("share", "freedom", "table"),
    [
        (0.95, 1, 6.314),
        (0.95, 2, 2.920),
        (0.95, 4, 2.132),
        (0.95, 9, 1.833),
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 4, 2.776),
        (0.975, 30, 2.042),
        (0.995, 4, 4.604),
        (0.9995, 10, 4.587),
        (0.95, 1_000_000, 1.645),
        (0.5, 3, 0.0),
        (0.05, 4, -2.132),
    ],
)
def test_t_quantile_gives_the_printed_table(share: float, freedom: int, table: float) -> None:
    assert t_quantile(share, freedom) == pytest.approx(table, abs=6e-4)


def test_t_quantile_has_its_closed_forms() -> None:
    for share in (0.6, 0.9, 0.99, 0.9999):
        assert t_quantile(share, 1) == pytest.approx(math.tan(math.pi * (share - 0.5)), rel=1e-9)
        closed = (2 * share - 1) / math.sqrt(2 * share * (1 - share))
        assert t_quantile(share, 2) == pytest.approx(closed, rel=1e-9)


def below(count: int, asked: int, share: float) -> float:
    """P(X <= count) by summing the binomial."""
    return sum(math.comb(asked, k) * share**k * (1 - share) ** (asked - k) for k in range(count + 1))


@pytest.mark.parametrize("asked", [1, 2, 4, 10, 37])
def test_binomial_interval_puts_half_the_rest_in_each_tail(asked: int) -> None:
    for solved in range(asked + 1):
        low, high = binomial_interval(solved, asked)
        assert (
            low == 0 if solved == 0 else 1 - below(solved - 1, asked, low) == pytest.approx(0.025, rel=1e-9)
        )
        assert high == 1 if solved == asked else below(solved, asked, high) == pytest.approx(0.025, rel=1e-9)


def test_none_of_four_leaves_sixty_percent_open() -> None:
    assert binomial_interval(0, 4) == (0, pytest.approx(0.6024, abs=1e-4))
    assert binomial_interval(4, 4) == (pytest.approx(0.3976, abs=1e-4), 1)
    assert binomial_interval(0, 0) == (0, 1)


@given(st.integers(0, 2000), st.integers(0, 2000), st.floats(0.01, 0.999))
def test_binomial_interval_holds_the_share_and_mirrors(solved: int, missed: int, level: float) -> None:
    asked = solved + missed
    assume(asked)
    low, high = binomial_interval(solved, asked, level)
    assert 0 <= low <= solved / asked <= high <= 1
    mirrored = binomial_interval(missed, asked, level)
    assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]), abs=1e-9)


@pytest.mark.parametrize(("solved", "asked"), [(-1, 4), (5, 4)])
def test_binomial_interval_refuses_what_is_no_share(solved: int, asked: int) -> None:
    with raises_code(ArgumentError, "statistics.not-a-share", solved, asked):
        binomial_interval(solved, asked)


def test_paired_interval_by_hand() -> None:
    found = paired_t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.131847 * math.sqrt(2.5) / math.sqrt(5)
    assert (found.mean, found.seeds) == (3.0, 5)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), abs=1e-5)
    assert found.deviation == pytest.approx(math.sqrt(2.5))
    t = 3 / math.sqrt(2.5 / 5)
    scaled = 1 + t * t / 4  # the closed form with 4 degrees of freedom
    assert found.p_value == pytest.approx(0.5 - 0.375 * t / math.sqrt(scaled) * (1 - t * t / (12 * scaled)))


def test_paired_interval_covers_as_its_level_says() -> None:
    draw = random.Random(0)
    held = 0
    for _ in range(1000):
        found = paired_t_interval([draw.gauss(0.3, 2) for _ in range(3)])
        held += found.low <= 0.3 <= found.high
    assert held == pytest.approx(900, abs=40)  # four standard deviations


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_failed_run_without_a_score_decides_nothing(bad: float) -> None:
    found = paired_t_interval([5.0, 5.0, 5.0, 5.0, bad])
    assert (found.mean, found.low, found.high) == (-math.inf, -math.inf, math.inf)
    assert decide(found, 0.1).verdict == "INCONCLUSIVE"
    assert decide(found, 0.1).seeds_needed is None


def test_one_difference_bounds_nothing_and_none_is_refused() -> None:
    found = paired_t_interval([7.0])
    assert (found.mean, found.low, found.high) == (7.0, -math.inf, math.inf)
    with raises_code(ArgumentError, "statistics.no-differences"):
        paired_t_interval([])


def interval(mean: float, half: float, seeds: int = 5) -> PairedInterval:
    deviation = half * math.sqrt(seeds) / t_quantile(0.95, seeds - 1)
    return PairedInterval(mean, mean - half, mean + half, deviation, seeds, 0.90, 0.5)


@pytest.mark.parametrize(
    ("mean", "half", "verdict"),
    [
        (0.30, 0.10, "VALIDATED"),
        (0.20, 0.10, "VALIDATED"),  # mean exactly m
        (0.19, 0.10, "INCONCLUSIVE"),  # above 0, but too small to matter, and perhaps not
        (0.30, 0.40, "INCONCLUSIVE"),
        (0.05, 0.10, "INVALIDATED"),  # the doubt is under m
        (0.15, 0.01, "INVALIDATED"),  # surely above 0, and surely too small to matter
        (-1.0, 0.10, "INVALIDATED"),
    ],
)
def test_the_registered_rule(mean: float, half: float, verdict: str) -> None:
    decision = decide(interval(mean, half), 0.20)
    assert decision.verdict == verdict
    assert (decision.seeds_needed is not None) == (verdict == "INCONCLUSIVE")
    assert not decision.screening


def test_a_screening_validates_nothing_but_can_name_a_candidate() -> None:
    decision = decide(paired_t_interval([1.0, 1.1, 1.2]), 0.2)
    assert (decision.verdict, decision.screening, decision.candidate) == ("INCONCLUSIVE", True, True)
    assert decision.seeds_needed == 5
    assert "screening" in decision.reason
    assert decide(paired_t_interval([-1.0, -1.1, -1.2]), 0.2).verdict == "INVALIDATED"
    assert decide(paired_t_interval([1.0, 1.1, 1.2]), 0.2, full_seeds=3).verdict == "VALIDATED"


@pytest.mark.parametrize(("mean", "half"), [(0.3, 0.4), (0.17, 0.1), (0.1, 0.5), (0.21, 1.0)])
def test_seeds_needed_is_the_first_number_that_decides(mean: float, half: float) -> None:
    found = interval(mean, half)
    needed = decide(found, 0.2).seeds_needed
    assert needed is not None

    def at(seeds: int) -> str:
        half = t_quantile(0.95, seeds - 1) * found.deviation / math.sqrt(seeds)
        return decide(interval(mean, half, seeds), 0.2).verdict

    assert at(needed) != "INCONCLUSIVE"
    assert all(at(seeds) == "INCONCLUSIVE" for seeds in (*range(5, needed, 10), needed - 1))


def test_a_hopeless_question_names_no_number() -> None:
    assert count_seeds_needed(interval(0.2 - 1e-9, 10.0), 0.2) is None


def test_decide_refuses_an_effect_that_is_not_positive() -> None:
    with raises_code(ArgumentError, "statistics.bad-smallest-effect", 0.0):
        decide(interval(1, 1), 0.0)


def test_equal_differences_are_certain() -> None:
    assert decide(paired_t_interval([0.5] * 5), 0.2).verdict == "VALIDATED"
    assert decide(paired_t_interval([0.0] * 5), 0.2).verdict == "INVALIDATED"
    assert paired_t_interval([0.0] * 5).p_value == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([math.nan, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12), st.floats(1e-6, 1e3))
def test_the_rule_never_contradicts_the_interval(differences: list[float], smallest: float) -> None:
    found = paired_t_interval(differences)
    decision = decide(found, smallest)
    assert found.low <= found.mean <= found.high
    assert 0 <= found.p_value <= 1
    if decision.verdict == "VALIDATED":
        assert found.p_value < 0.05
        assert found.mean >= smallest
    if decision.verdict == "INVALIDATED":
        assert found.high < smallest


def test_a_decision_says_whether_there_is_an_effect_or_none() -> None:
    cases = [[0.5, 0.51, 0.52, 0.5, 0.49], [0.5, 0.51, 0.52], [-0.1, -0.11, -0.12], [-0.2, 0.3, 0.1]]
    found = [decide(paired_t_interval(differences), 0.1) for differences in cases]
    assert [decision.gained for decision in found] == [True, True, False, False]
    assert [decision.ruled_out for decision in found] == [False, False, True, None]

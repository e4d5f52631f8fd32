"""What would change a verdict: numbers that are exact, held against the rule itself."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etrm.evaluation.statistics import decide, paired_t_interval
from etrm.investigation.result import Direction, Effect, Evidence, Hypothesis, Result, Verdict
from reports.margins import forecast, margins


def effect(*by_seed: float, smallest: float = 0.3) -> Effect:
    return Effect(by_seed=by_seed, smallest=smallest)


def test_an_open_row_says_how_many_seeds_would_settle_it() -> None:
    text = forecast(effect(0.1, 0.4, 0.0))  # mean 1/6, deviation .2082, t(2, .95) = 2.920
    assert "mean effect 0.1667 [-0.1843, 0.5176] over 3 seeds" in text
    # By hand: .1333 is wider than t(n-1) * .2082 / sqrt(n) from n = 9 on (n = 8: .1394, n = 9: .1290).
    assert text.endswith("9 seeds in all would rule out an effect that matters, should mean and spread stay.")


def test_an_open_row_above_the_smallest_effect_is_to_be_proven() -> None:
    assert "would prove the effect" in forecast(effect(0.9, 0.0, 0.6))


def test_a_candidate_says_how_many_seeds_are_lacking() -> None:
    text = forecast(effect(0.5, 0.6, 0.7))
    assert "2 more seeds would prove it" in text
    assert (
        "if the mean fell by more than 0.3000, or the lower end by 0.4314" in text
    )  # .6 - 2.920 * .1 / sqrt 3


def test_a_proven_row_lacks_none() -> None:
    text = forecast(effect(0.5, 0.6, 0.7, 0.6, 0.55))
    assert "more seed" not in text
    assert "It would no longer hold" in text


def test_a_refuted_row_says_how_far_its_upper_end_is() -> None:
    # .3 - (.05 + 2.920 * .05 / sqrt 3)
    assert "open again if the upper end rose by 0.1657." in forecast(effect(0.0, 0.1, 0.05))


def test_one_seed_has_no_interval() -> None:
    assert forecast(effect(0.5)).startswith("one seed gives 0.5000 and no interval")


def test_a_spread_beyond_all_seeds_is_said() -> None:
    assert "no number of seeds" in forecast(effect(-1e9, 1e9, smallest=1e-9))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.floats(0.05, 1))
def test_the_distance_that_is_named_is_where_the_rule_turns(values: list[float], smallest: float) -> None:
    text = forecast(effect(*values, smallest=smallest))
    found = paired_t_interval(values)
    decided = decide(found, smallest)
    if rise := re.search(r"rose by ([\d.e+-]+)\.$", text):
        assert decided.verdict == "INVALIDATED"
        by = float(rise[1])
        moved = [value + 1.01 * by + 1e-9 for value in values]
        assert decide(paired_t_interval(moved), smallest).verdict == "INCONCLUSIVE"
    elif fall := re.search(r"fell by more than ([\d.e+-]+), or the lower end by ([\d.e+-]+)\.$", text):
        assert decided.candidate
        moved = [value - 1.01 * min(map(float, fall.groups())) - 1e-9 for value in values]
        assert not decide(paired_t_interval(moved), smallest).candidate
    else:
        assert decided.verdict == "INCONCLUSIVE"
        assert not decided.candidate


def row(metric: str, passed: bool | None, **more: object) -> Evidence:
    facts = {"direction": Direction.HOLDS, "treatment": 0.25, "threshold": "= 1", "n": "1", **more}
    return Evidence(code=f"test.{metric}", metric=metric, passed=passed, **facts)


def of(example: Result, verdict: Verdict, *rows: Evidence) -> Hypothesis:
    return example.hypotheses["H1"].replace(verdict=verdict, evidence=rows)


def test_every_row_that_fails_is_named_with_its_distance(example: Result) -> None:
    equal = row("tensors", False, direction=Direction.EQUAL, control=14, treatment=12, threshold="all 14")
    (text,) = margins(of(example, Verdict.VALIDATED, row("coverage", False), equal, row("steps", True)))
    assert text == (
        "All of these 2 would have to pass: coverage: 0.2500, threshold = 1; "
        "tensors: 12, threshold all 14, off by -2."
    )


def test_rows_that_all_pass_are_counted(example: Result) -> None:
    (text,) = margins(of(example, Verdict.INVALIDATED, row("a", True), row("b", True), row("c", None)))
    assert text == "All 2 rows that decide pass; one that fails would make this VALIDATED."


def test_what_did_not_behave_comes_first(example: Result) -> None:
    assert margins(example.hypotheses["H5"]) == [
        "Control swapped-demos must be VALIDATED; it was INVALIDATED."
    ]
    assert margins(example.hypotheses["H2"])[0].startswith("Instrument: the loss is finite must hold.")


@pytest.mark.parametrize("verdict", [Verdict.NOT_RUN, Verdict.ERROR])
def test_nothing_is_foretold_of_nothing(example: Result, verdict: Verdict) -> None:
    assert margins(of(example, verdict)) == []


def test_an_effect_that_is_not_finite_is_none() -> None:
    assert Effect.known((0.1, float("nan")), 0.1) is None
    assert Effect.known((), 0.1) is None
    assert Effect.known((0.1,), 0.1) == effect(0.1, smallest=0.1)


def test_several_effects_are_held_against_holms_correction(example: Result) -> None:
    compared = [row(name, None, effect=effect(0.1, 0.4, 0.0)) for name in ("a", "b")]
    one, other, holm = margins(of(example, Verdict.INCONCLUSIVE, *compared))
    assert one.removeprefix("a") == other.removeprefix("b")
    assert holm.startswith("Holm's correction over these 2 rows")


def test_a_row_that_fails_in_what_is_invalidated_is_not_counted_as_passing(example: Result) -> None:
    assert margins(of(example, Verdict.INVALIDATED, row("a", True), row("b", False))) == []

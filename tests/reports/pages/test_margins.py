"""What would change a verdict: numbers that are exact, held against the rule itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etrm.evaluation.statistics import decide, paired_t_interval
from etrm.investigation.evidence.table import Direction, Effect, EvidenceRow
from etrm.investigation.records import InstrumentCheck, Verdict
from etrm.investigation.result import HypothesisResult, Result
from reports.markdown import NOTHING
from reports.pages.hypothesis_page import primary
from reports.pages.margins import Outlook, forecast, in_words, margins
from reports.pages.sections import instruments_table


def effect(*by_seed: float, smallest: float = 0.3) -> Effect:
    return Effect(by_seed=by_seed, smallest=smallest)


def test_an_open_row_says_how_many_seeds_would_settle_it() -> None:
    found = forecast(effect(0.1, 0.4, 0.0))  # mean 1/6, deviation .2082, t(2, .95) = 2.920
    interval = (found.found.mean, found.found.low, found.found.high)
    assert interval == pytest.approx((0.16667, -0.18430, 0.51763), abs=1e-4)
    # By hand: .1333 is wider than t(n-1) * .2082 / sqrt(n) from n = 9 on (n = 8: .1394, n = 9: .1290).
    assert (found.outlook, found.seeds) == (Outlook.OPEN, 9)
    assert "9 seeds" in in_words(found)


def test_an_open_row_above_the_smallest_effect_is_to_be_proven() -> None:
    above, below = forecast(effect(0.9, 0.0, 0.6)), forecast(effect(0.1, 0.4, 0.0))
    assert above.outlook is below.outlook is Outlook.OPEN
    assert above.found.mean > above.smallest
    assert below.found.mean < below.smallest
    same = replace(above, seeds=below.seeds, found=replace(above.found, mean=below.found.mean))
    assert in_words(same) != in_words(replace(above, seeds=below.seeds))


def test_a_candidate_says_how_many_seeds_are_lacking() -> None:
    found = forecast(effect(0.5, 0.6, 0.7))
    assert (found.outlook, found.seeds) == (Outlook.HOLDS, 2)
    assert found.by == pytest.approx(0.3)
    assert found.found.low == pytest.approx(0.4314, abs=1e-4)  # .6 - 2.920 * .1 / sqrt 3
    assert all(words in in_words(found) for words in ("2 more seeds", "0.3000", "0.4314"))


def test_a_proven_row_lacks_none() -> None:
    found = forecast(effect(0.5, 0.6, 0.7, 0.6, 0.55))
    assert (found.outlook, found.seeds) == (Outlook.HOLDS, 0)


def test_a_refuted_row_says_how_far_its_upper_end_is() -> None:
    found = forecast(effect(0.0, 0.1, 0.05))
    assert found.outlook is Outlook.RULED_OUT
    assert found.by == pytest.approx(0.1657, abs=1e-4)  # .3 - (.05 + 2.920 * .05 / sqrt 3)
    assert "0.1657" in in_words(found)


def test_one_seed_has_no_interval() -> None:
    assert forecast(effect(0.5)).outlook is Outlook.ONE_SEED


def test_a_spread_beyond_all_seeds_is_said() -> None:
    assert forecast(effect(-1e9, 1e9, smallest=1e-9)).outlook is Outlook.OPEN_FOR_EVER


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.floats(0.05, 1))
def test_the_distance_that_is_named_is_where_the_rule_turns(values: list[float], smallest: float) -> None:
    found = forecast(effect(*values, smallest=smallest))
    decided = decide(paired_t_interval(values), smallest)
    if found.outlook is Outlook.RULED_OUT:
        assert decided.verdict == "INVALIDATED"
        assert found.by is not None
        moved = [value + 1.01 * found.by + 1e-9 for value in values]
        assert decide(paired_t_interval(moved), smallest).verdict == "INCONCLUSIVE"
    elif found.outlook is Outlook.HOLDS:
        assert decided.candidate
        assert found.by is not None
        moved = [value - 1.01 * min(found.by, found.found.low) - 1e-9 for value in values]
        assert not decide(paired_t_interval(moved), smallest).candidate
    else:
        assert decided.verdict == "INCONCLUSIVE"
        assert not decided.candidate


def row(metric: str, passed: bool | None, **more: object) -> EvidenceRow:
    facts = {"direction": Direction.HOLDS, "treatment": 0.25, "threshold": "= 1", "n": "1", **more}
    return EvidenceRow(code=f"test.{metric}", metric=metric, passed=passed, **facts)


def of(example: Result, verdict: Verdict, *rows: EvidenceRow) -> HypothesisResult:
    return example.hypotheses["H1"].replace(verdict=verdict, evidence=rows)


def test_every_row_that_fails_is_named_with_its_distance(example: Result) -> None:
    equal = row("tensors", False, direction=Direction.EQUAL, control=14, treatment=12, threshold="all 14")
    (text,) = margins(of(example, Verdict.VALIDATED, row("coverage", False), equal, row("steps", True)))
    assert [name in text for name in ("coverage", "tensors", "steps")] == [True, True, False]
    assert all(value in text for value in ("0.2500", "= 1", "12", "all 14", "-2"))


def test_a_row_of_context_changes_no_verdict(example: Result) -> None:
    measured = effect(0.1, 0.4, 0.0)
    deciding = row("deciding", None, direction=Direction.HIGHER, effect=measured)
    context = row("background", None, direction=Direction.CONTEXT, effect=measured)
    lines = margins(example.hypotheses["H1"].replace(evidence=(deciding, context)))
    assert any("deciding" in line for line in lines)
    assert not any("background" in line for line in lines)
    assert primary([context, deciding]) == deciding


def test_rows_that_all_pass_are_counted(example: Result) -> None:
    (text,) = margins(of(example, Verdict.INVALIDATED, row("a", True), row("b", True), row("c", None)))
    assert "2" in text
    assert Verdict.VALIDATED in text


def test_what_did_not_behave_comes_first(example: Result) -> None:
    (control,) = margins(example.hypotheses["H5"])
    assert all(value in control for value in ("swapped-demos", f" {Verdict.VALIDATED};", Verdict.INVALIDATED))
    instrument, *rest = margins(example.hypotheses["H2"])
    broken = next(check for check in example.hypotheses["H2"].instruments if not check.passed)
    assert broken.name in instrument
    assert rest


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
    assert "2" in holm


def test_a_row_that_fails_in_what_is_invalidated_is_not_counted_as_passing(example: Result) -> None:
    assert margins(of(example, Verdict.INVALIDATED, row("a", True), row("b", False))) == []


def test_an_instrument_with_nothing_to_check_is_not_broken(example: Result) -> None:
    found = example.hypotheses["H2"]
    checks = tuple(InstrumentCheck(**(dict(check) | {"passed": None})) for check in found.instruments)
    table = instruments_table(checks)
    assert [line.split("|")[2].strip() for line in table.splitlines()[2:]] == [NOTHING] * len(checks)
    changed = found.replace(instruments=checks)
    assert not any(check.name in line for check in checks for line in margins(changed))

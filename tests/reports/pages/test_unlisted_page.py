"""The page of the bench of random changes, from planted outcomes."""

from __future__ import annotations

from etrm.evaluation import binomial_interval
from etrm.investigation.unlisted.unlisted_benchmark import BRIEF, UnlistedCase, UnlistedOutcome
from reports.pages.unlisted_page import unlisted_page


def change(seed: int, stage: str, expected: str, named: str, **fields: object) -> UnlistedOutcome:
    outcome = UnlistedOutcome(
        UnlistedCase("change", seed), f"code {seed} | part", (stage,), (expected,), named=named
    )
    return UnlistedOutcome(**{**vars(outcome), **fields})


OUTCOMES = [
    change(0, "average", "H6", "H6"),
    change(1, "average", "H6", "none"),
    change(2, "loss", "H5", "H5"),
    change(3, "loss", "H5", "none", status="crashed"),
    change(4, "loss", "H5", "none", status="without effect"),
    UnlistedOutcome(UnlistedCase("healthy", 0), "train.lr=1"),
    UnlistedOutcome(UnlistedCase("healthy", 1), "train.lr=2", named="H3", confidence="candidate"),
]


def test_changes_are_counted_by_stage_and_what_did_not_alter_training_apart() -> None:
    text = unlisted_page(OUTCOMES, BRIEF)
    low, high = binomial_interval(2, 3)
    assert f"2 of 3 (67%, 95 % interval {low:.1%} to {high:.1%})" in text.replace("\xa0", " ")
    assert "1 of 2 (50%" in text
    assert "changes drawn: 5; crashed: 1; without effect: 1" in text
    rows = {row.split("|")[1].strip(): row for row in text.splitlines() if row.startswith("|")}
    assert "H6 1, none 1" in rows["average"]
    assert list(rows).index("average") > list(rows).index("loss"), "in the order of the pipeline"


def test_wrong_cases_come_first() -> None:
    text = unlisted_page(OUTCOMES, BRIEF)
    assert text.index("code 1") < text.index("code 0") < text.index("code 2")
    assert "code 3" not in text
    assert text.index("train.lr=2") < text.index("train.lr=1")
    assert "H3 (candidate)" in text


def test_an_empty_bench_has_a_page() -> None:
    assert unlisted_page([], BRIEF).count("not measured") == 3

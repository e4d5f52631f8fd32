"""H5 by effect: each fault of the list and some that are not in it, and the words that say which."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from etrm.config import Config, load, with_settings
from etrm.data import Episodes, Sample
from etrm.investigation.hypotheses import h5_data as h5
from etrm.investigation.measurements.row_provenance import RowProblem
from etrm.investigation.records import NotMeasured, Verdict
from etrm.investigation.session import Investigation
from etrm.training.recipe import Recipe


def smoke(*faults: str) -> Config:
    return with_settings(load("smoke"), train={"threads": 1}, faults=faults)


def test_a_healthy_subject_has_nothing_wrong() -> None:
    facts = h5.inspect_data(smoke())
    assert not facts.holds
    assert facts.read.rows >= h5.ROWS
    assert facts.loss == facts.loss_garbled
    assert facts.codes == (h5.DataReason.SOUND,)
    assert facts.known_source


def test_the_answers_of_a_source_from_outside_are_not_vouched_for(tmp_path: Path) -> None:
    for colour in range(8):
        pairs = [{"input": [[colour]] * size, "output": [[9 - colour]] * size} for size in (1, 2, 3)]
        (tmp_path / f"{colour}.json").write_text(json.dumps({"train": pairs[:2], "test": pairs[2:]}))
    facts = h5.inspect_data(with_settings(smoke(), data={"source": str(tmp_path)}))
    assert (facts.holds, facts.known_source) == (False, False)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("demos-from-other-task", RowProblem.FOREIGN),
        ("query-in-demos", RowProblem.ANSWER),
        ("augment-mismatch", RowProblem.APART),
    ],
)
def test_what_is_wrong_with_the_rows_is_named(fault: str, kind: RowProblem) -> None:
    facts = h5.inspect_data(smoke(fault))
    assert facts.read.wrong[kind] == facts.read.rows
    assert not facts.mismatched_labels
    assert not facts.leaked.ids
    assert kind in facts.codes
    rows = {row.item: row for row in h5._make_rows(facts, 1) if row.code == h5.ROW_PROBLEM.code}
    assert (rows[kind].treatment, rows[kind].passed) == (facts.read.rows, False)


def test_labels_of_later_samples_show_in_the_loss_alone() -> None:
    facts = h5.inspect_data(smoke("labels-from-new-batch"))
    assert facts.mismatched_labels
    assert not facts.read.wrong
    assert facts.codes == (h5.DataReason.FOREIGN_LABELS,)


def test_leaked_tasks_are_counted() -> None:
    facts = h5.inspect_data(smoke("eval-leak"))
    assert len(facts.leaked.by_id) == 2  # every second of the four that are asked
    assert facts.codes == (h5.DataReason.LEAK,)
    assert not facts.read.wrong


def test_a_fault_that_nobody_listed_is_found_by_its_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    def shuffled(episodes: Episodes, bucket: int, index: int) -> Sample:
        sample, other = episodes.sample(bucket, index), episodes.sample(bucket, index + 1)
        length = len(sample.labels)
        labels = other.labels[:length] if len(other.labels) >= length else sample.labels[::-1].copy()
        return replace(sample, labels=labels)

    monkeypatch.setattr("etrm.training.trainer.build_recipe", lambda config: Recipe(draw=shuffled))
    facts = h5.inspect_data(smoke())
    assert facts.read.wrong[RowProblem.LABELS] > facts.read.rows / 2


def test_a_loss_that_is_not_finite_is_absent_and_accuses_nobody() -> None:
    facts = h5.inspect_data(smoke("context-nan"))
    assert isinstance(facts.loss, NotMeasured)
    assert not facts.holds


def test_verdict_controls_and_evidence(investigation: Investigation) -> None:
    found = h5.HYPOTHESIS.decide(investigation)
    assert found.verdict is Verdict.INVALIDATED
    assert [control.name for control in found.controls] == ["healthy", *h5.HYPOTHESIS.controls]
    assert all(control.behaved for control in found.controls)
    assert all(row.passed for row in found.evidence)
    assert all(check.passed for check in found.instruments)

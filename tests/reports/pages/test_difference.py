"""What changed between two results: what is listed, what is not, and the words for it."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from etrm.errors import ConfigError, RunFolderError
from etrm.investigation.evidence.table import Direction
from etrm.investigation.records import NotMeasured, Verdict
from etrm.investigation.result import PREVIOUS, SCHEMA_VERSION, CauseCode, Result, Scenario
from reports import read_and_render
from reports.pages.difference import compare
from reports.pages.difference_page import difference_page, terminal_difference
from reports.pages.index_page import CHANGED
from reports.pages.standing import marks
from tests.command_line import Ended, etrm
from tests.errors import assert_holds, raises_code
from tests.reports.test_render import GOLDEN, REGENERATE


def hypothesis_changed(result: Result, key: str, **update: Any) -> Result:
    changed = result.hypotheses[key].replace(**update)
    return result.replace(hypotheses=result.hypotheses | {key: changed})


def row_changed(result: Result, key: str, place: int, **update: Any) -> Result:
    rows = list(result.hypotheses[key].evidence)
    rows[place] = rows[place].replace(**update)
    return hypothesis_changed(result, key, evidence=tuple(rows))


@pytest.fixture
def mended(example: Result) -> Result:
    """The same subject a week later: gradients mended, another commit, two more seeds, another rate."""
    found = row_changed(example, "H2", 1, treatment=1.0, passed=True)
    found = hypothesis_changed(found, "H2", verdict=Verdict.INVALIDATED)
    found = row_changed(found, "H4", 0, treatment=1.6, low=0.1, high=0.3)
    frozen = found.experiments[0].replace(scenario=Scenario.LEARNS)
    then = found.reproduce
    now = then.replace(
        commit="4567def",
        dirty=False,
        seeds=(0, 1, 2, 3, 4),
        versions=then.versions | {"torch": "2.7.0"},
        config={"train": {"steps": 60, "lr": 0.002}, "faults": []},
        wall_s=60.0,
    )
    return found.replace(
        cause_code=CauseCode.NONE,
        root_cause=None,
        root_cause_confidence=None,
        experiments=(frozen,),
        reproduce=now,
    )


def test_the_page_equals_its_golden_file(example: Result, mended: Result) -> None:
    text = difference_page(compare(example, mended), "runs/before", "runs/after")
    if os.environ.get(REGENERATE):
        (GOLDEN / "diff.md").write_text(text, "utf-8")
    assert text == (GOLDEN / "diff.md").read_text("utf-8")


def test_a_result_differs_in_nothing_from_itself(example: Result, mended: Result) -> None:
    found = compare(example, Result.model_validate_json(example.to_json()))
    assert found.same
    assert (found.found, found.evidence, found.within, found.circumstances) == ((), (), 0, ())
    assert difference_page(found, "a", "b") != difference_page(compare(example, mended), "a", "b")


def test_circumstances_alone_are_no_finding(example: Result, mended: Result) -> None:
    found = compare(example, example.replace(reproduce=mended.reproduce))
    assert found.same
    assert [(change.part, change.what) for change in found.circumstances] == [
        ("code", "commit"),
        ("runs", "seeds"),
        ("versions", "torch"),
        ("settings", "train.lr"),
    ]


def test_both_directions_list_the_same_rows(example: Result, mended: Result) -> None:
    there, back = compare(example, mended), compare(mended, example)
    for one, other in ((there.found, back.found), (there.evidence, back.evidence)):
        assert [(c.what, c.before, c.after) for c in one] == [(c.what, c.after, c.before) for c in other]


def listed(result: Result, **update: Any) -> tuple[int, int]:
    """How many rows are listed and how many are not, when the row of H4 changes so."""
    found = compare(result, row_changed(result, "H4", 0, **update))
    return len(found.evidence), found.within


def test_a_row_is_listed_where_its_interval_leaves_the_old_one(example: Result) -> None:
    assert listed(example, low=0.3, high=0.9) == (0, 1)  # was -0.01 to 0.4
    assert listed(example, low=0.4, high=0.9) == (0, 1)
    assert listed(example, low=0.41, high=0.9) == (1, 0)
    assert listed(example, low=-2.0, high=-0.02) == (1, 0)
    assert listed(example, treatment=9.0) == (0, 1)


def test_a_row_is_listed_where_its_outcome_or_its_rule_changes(example: Result) -> None:
    assert listed(example, passed=True) == (1, 0)
    assert listed(example, threshold="0.1") == (0, 0)  # it decides nothing
    assert compare(example, row_changed(example, "H2", 1, threshold="> 0.9")).evidence != ()


def test_without_an_interval_a_row_that_fails_is_listed_when_it_moves(example: Result) -> None:
    def counts(place: int, **update: Any) -> tuple[int, int]:
        found = compare(example, row_changed(example, "H2", place, **update))
        return len(found.evidence), found.within

    assert counts(1, treatment=0.5) == (1, 0)  # fails in both
    assert counts(1, treatment=0.250001) == (0, 0)  # shown alike
    assert counts(1, treatment=NotMeasured(absent="no step")) == (1, 0)
    assert counts(0, treatment=200) == (0, 1)  # decides nothing


def test_values_that_must_be_equal_are_compared_by_their_difference(example: Result) -> None:
    facts = {"direction": Direction.EQUAL, "passed": False, "low": None, "high": None}
    before = row_changed(example, "H4", 0, **facts, control=2.0, treatment=2.5)
    assert compare(before, row_changed(before, "H4", 0, control=3.0, treatment=3.5)).evidence == ()
    assert len(compare(before, row_changed(before, "H4", 0, treatment=2.75)).evidence) == 1


def test_a_row_that_is_new_or_gone_is_listed_where_it_decides(example: Result) -> None:
    rows = example.hypotheses["H2"].evidence
    fewer = hypothesis_changed(example, "H2", evidence=rows[2:])  # one of the two that go decides
    assert not compare(example, fewer).same
    (gone,) = compare(example, fewer).evidence
    (new,) = compare(fewer, example).evidence
    assert (gone.before, gone.after) == (new.after, new.before)
    assert all(fact in new.after for fact in ("0.2500", "1", rows[1].threshold))


def test_rows_are_found_again_by_their_code_whatever_their_words_and_place(example: Result) -> None:
    rows = example.hypotheses["H2"].evidence
    reworded = tuple(row.replace(metric=f"Reworded: {row.metric}") for row in reversed(rows))
    assert compare(example, hypothesis_changed(example, "H2", evidence=reworded)).same
    recoded = (rows[0], rows[1].replace(code="h2.another-metric"), *rows[2:])
    found = compare(example, hypothesis_changed(example, "H2", evidence=recoded))
    assert len(found.evidence) == 2  # one is gone and one is new


def test_rows_of_one_metric_are_told_apart_by_their_item(example: Result) -> None:
    row = example.hypotheses["H2"].evidence[1]
    twice = (row.replace(item="one"), row.replace(item="two", treatment=0.5))
    before = hypothesis_changed(example, "H2", evidence=twice)
    assert compare(before, before).same
    (change,) = compare(before, row_changed(before, "H2", 1, treatment=0.75)).evidence
    assert ("0.5000" in change.before, "0.7500" in change.after) == (True, True)


def test_another_subject_is_refused_unless_asked_for(example: Result) -> None:
    other = example.replace(subject="preset small with encoder-frozen")
    with raises_code(ConfigError, "diff.other-subject", "encoder-frozen", "--any-subject"):
        compare(example, other)
    (change,) = compare(example, other, any_subject=True).found
    assert (change.before, change.after) == ("preset small", "preset small with encoder-frozen")


def test_an_explanation_that_goes_changes_the_verdict_that_is_shown(example: Result) -> None:
    (change,) = compare(example, hypothesis_changed(example, "H3", explained_by=None)).found
    assert (change.before, change.after) == (f"VALIDATED {marks(example, 'H3')}", "VALIDATED")


def test_the_terminal_says_what_the_page_says(example: Result, mended: Result) -> None:
    console = Console(file=io.StringIO(), width=160)
    console.print(terminal_difference(compare(example, mended)))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for words in ("INVALIDATED", "0123abc", "4567def", "11 runs"):
        assert words in text


def test_the_index_says_what_changed_since_the_last_run(
    example: Result, mended: Result, tmp_path: Path
) -> None:
    (tmp_path / "result.json").write_text(mended.to_json(), "utf-8")
    read_and_render(tmp_path)
    assert CHANGED not in (tmp_path / "index.md").read_text("utf-8")
    (tmp_path / PREVIOUS).write_text(example.to_json(), "utf-8")
    read_and_render(tmp_path)
    index = (tmp_path / "index.md").read_text("utf-8")
    assert f"## {CHANGED}" in index
    assert "H2 (proven)" in index
    (tmp_path / PREVIOUS).write_text("{}", "utf-8")
    with raises_code(RunFolderError, "result.other-version", tmp_path / PREVIOUS):
        read_and_render(tmp_path)


def test_two_investigations_are_compared(example: Result, tmp_path: Path) -> None:
    changes: dict[str, dict[str, Any]] = {"a": {}, "b": {"root_cause": None}, "c": {"subject": "another"}}
    for name, update in changes.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(example.replace(**update).to_json(), "utf-8")

    def diff(*words: str) -> Ended:
        return etrm("diff", *words, cwd=tmp_path)

    assert diff("a", "a", "--exit-code").code == 0
    done = diff("a", "b", "--exit-code", "--out", "diff.md")
    assert done.code == 1
    assert "none found" in done.out
    assert "none found" in (tmp_path / "diff.md").read_text("utf-8")
    refused = diff("a", "c")
    assert refused.code == 2
    assert_holds(refused.err, "diff.other-subject", "--any-subject")
    assert diff("a", "c", "--any-subject").code == 0
    assert diff("a", "nowhere").code == 2


def test_an_earlier_result_is_kept_and_one_of_another_version_is_not(
    example: Result, mended: Result, tmp_path: Path
) -> None:
    example.write(tmp_path)
    assert not (tmp_path / PREVIOUS).exists()
    mended.write(tmp_path)
    assert Result.read(tmp_path / PREVIOUS) == example
    assert Result.read(tmp_path / "result.json") == mended
    older = example.model_dump(mode="json") | {"schema_version": SCHEMA_VERSION - 1}
    (tmp_path / "result.json").write_text(json.dumps(older))
    with pytest.raises(RunFolderError) as refused:
        Result.read(tmp_path / "result.json")
    assert (refused.value.got, refused.value.allowed) == (
        f"schema_version {SCHEMA_VERSION - 1}",
        f"schema_version {SCHEMA_VERSION}",
    )
    example.write(tmp_path)
    assert not (tmp_path / PREVIOUS).exists()


def test_additional_findings_of_an_earlier_file_are_read(example: Result, tmp_path: Path) -> None:
    text = example.to_json()
    assert example.additional_findings
    (tmp_path / "result.json").write_text(text.replace('"additional_findings"', '"beside"'))
    assert Result.read(tmp_path / "result.json") == example

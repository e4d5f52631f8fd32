"""The section on what a run recorded."""

from __future__ import annotations

from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.result import Accusation, RecordedDifference, RecordedRun, Result
from reports.pages.index_page import index_page
from reports.pages.recorded_section import TITLE, recorded_section

METRIC = Metric("run.planted", "planted", Direction.HOLDS)
RECORDED = RecordedRun(
    folder="runs/mine",
    steps=400,
    checkpoints=(200, 400),
    differences=(RecordedDifference(code="run.other-data", name="data_hash", before="aaa", now="bbb"),),
    evidence=(
        METRIC.row(3.0, threshold="0", passed=False, n="1", item="a"),
        METRIC.row(0.0, threshold="0", passed=True, n="1", item="b"),
    ),
    accusations=(
        Accusation(
            hypothesis="H2", code="run.planted", item="a", proves=True, words="3 tensors | stand still"
        ),
        Accusation(code="run.other", words="another"),
    ),
)


def test_it_shows_what_did_not_pass_the_differences_and_all_rows() -> None:
    text = recorded_section(RECORDED, {"H2": "h2.md"})
    assert "1 of 2 checks did not pass" in text
    accused = next(line for line in text.splitlines() if "stand still" in line)
    assert "3 tensors \\| stand still." in accused
    assert "[H2](h2.md)" in accused
    assert "proves it" in accused
    difference = next(line for line in text.splitlines() if "run.other-data" in line)
    assert [cell.strip() for cell in difference.split("|")[2:5]] == ["data_hash", "aaa", "bbb"]


def test_it_stands_before_everything_but_the_root_cause(example: Result) -> None:
    pages = {key: f"{key}.md" for key in example.hypotheses}
    files = [f"e{i}.md" for i in range(len(example.experiments))]
    text = index_page(example.replace(recorded=RECORDED), pages, files)
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles[0] == f"## {TITLE}"
    assert TITLE not in index_page(example, pages, files)

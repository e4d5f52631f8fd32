"""The page of one hypothesis."""

from __future__ import annotations

from collections.abc import Sequence

from etrm.investigation.evidence.table import Direction, EvidenceRow
from etrm.investigation.records import Verdict
from etrm.investigation.result import HypothesisResult, Result
from reports.markdown import NOTHING, bullets, escape, link, paragraph, sentence, value
from reports.names import name_pages
from reports.pages.margins import margins
from reports.pages.sections import (
    arms_table,
    change,
    controls_table,
    cost,
    difference,
    evidence_table,
    has_interval,
    instruments_table,
    join,
    prose,
    raw_data,
    reproduce,
    runs_tables,
    screening_note,
    section,
    seeds,
)
from reports.pages.standing import explained_by, is_selected, marks, place
from reports.words import MEANINGS, verdict_words


def hypothesis_page(result: Result, key: str, images: Sequence[str], navigation: str = "") -> str:
    """Return the page of a hypothesis as markdown. If it was not run, the page is short and gives the reason.

    Args:
        result: the investigation.
        key: the key of the hypothesis.
        images: the figures as markdown.
        navigation: the navigation as markdown, placed under the title.
    """
    hypothesis = result.hypotheses[key]
    head = [f"# {escape(key)}: {escape(hypothesis.title)}", navigation, verdict_line(result, key)]
    head += [screening_note(hypothesis.screening), _place_note(result, key), _note_explanation(result, key)]
    words = [
        prose("Statement", hypothesis.statement),
        prose("What would refute it", hypothesis.refuted_by),
        prose("Mechanism", hypothesis.mechanism),
    ]
    if hypothesis.verdict is Verdict.NOT_RUN and not hypothesis.runs and not hypothesis.evidence:
        return join([*head, *words, prose("What would decide it", hypothesis.would_change), raw_data(())])
    return join(
        [
            *head,
            section("Figures", *images),
            *words,
            section("Arms", arms_table(hypothesis.arms)),
            section("Evidence", evidence_table(hypothesis.evidence)),
            section("Controls", controls_table(hypothesis.controls)),
            section("Runs", runs_tables(hypothesis.runs)),
            section("Instrument checks", instruments_table(hypothesis.instruments)),
            section(
                "What would change this verdict",
                paragraph(escape(hypothesis.would_change)),
                bullets(margins(hypothesis)),
            ),
            reproduce(result.reproduce, hypothesis.runs, hypothesis.wall_s),
            raw_data(hypothesis.runs),
        ]
    )


def verdict_line(result: Result, key: str) -> str:
    """Return the verdict, its meaning, its sentence, and the numbers behind it."""
    hypothesis = result.hypotheses[key]
    verdict = hypothesis.verdict
    name = verdict_words(verdict)
    words = [
        name[:1].upper() + name[1:],
        escape(marks(result, key)),
        "—",
        sentence(escape(hypothesis.sentence)),
    ]
    meaning = f"{verdict.value} means that {MEANINGS[verdict]}."
    lines = [paragraph(" ".join(filter(None, words)), "> "), paragraph(meaning, "> ")]
    if hypothesis.runs or hypothesis.evidence:
        facts = [f"Effect: {_describe_effect(hypothesis)}."]
        facts += [f"Seeds: {seeds([run.seed for run in hypothesis.runs])}."] if hypothesis.runs else []
        facts += [f"Cost: {cost(hypothesis.runs, hypothesis.wall_s)}.", f"Kind: {hypothesis.kind}."]
        lines += [paragraph(" ".join(facts), "> ")]
    return "\n>\n".join(lines)


def _describe_effect(hypothesis: HypothesisResult) -> str:
    row = primary(hypothesis.evidence)
    if row is None:
        return "none was measured"
    compared = "" if row.control is None else f", control {value(row.control)}"
    kind = "interval" if has_interval(row) else "difference"
    changed = has_interval(row) or difference(row) is not None
    by = f", {kind} {change(row)}" if changed else ""
    threshold = escape(row.threshold) or NOTHING
    return f"{escape(row.metric)}: {value(row.treatment)}{compared}{by} (threshold: {threshold})"


def primary(rows: Sequence[EvidenceRow]) -> EvidenceRow | None:
    """Return the row for the summary: one that failed, else one that more seeds would decide, else one that passed."""
    deciding = [row for row in rows if row.passed is not None]
    failing = [row for row in deciding if not row.passed]
    open_rows = [row for row in rows if row.passed is None and row.direction is not Direction.CONTEXT]
    undecided = [row for row in open_rows if row.effect is not None]
    return next(iter([*failing, *undecided, *deciding]), None)


def _place_note(result: Result, key: str) -> str:
    cause = result.root_cause
    standing = place(result, key)
    if standing == "clear" or cause is None:
        return ""
    what = "leading candidate" if result.root_cause_confidence == "candidate" else "root cause"
    if standing == "root cause":
        return paragraph(f"This hypothesis is the **{what}** of the investigation.")
    if result.hypotheses[key].scope == "mechanism":
        return paragraph(
            f"The {what} is {escape(cause)}. This page is about a mechanism inside of the model. It may show how "
            f"{escape(cause)} comes about, and is not a second cause."
        )
    return paragraph(
        f"This hypothesis is downstream of the {what}, {escape(cause)}, so the measurements on this page may be its "
        f"consequence. Fix {escape(cause)} first, then measure again."
    )


def _note_explanation(result: Result, key: str) -> str:
    other = explained_by(result, key)
    if other is None:
        return ""
    pages = name_pages(result)[0]
    name = link(escape(other), pages[other]) if other in pages else escape(other)
    if not is_selected(result, other):
        return paragraph(
            f"This verdict may be **explained by {name}**, which was not selected: the fault on that page alone would "
            "produce the measurements on this page. So this hypothesis is not considered as the root cause until that "
            "one is tested."
        )
    return paragraph(
        f"This verdict is **explained by {name}**: the fault on that page alone produces the measurements on this "
        "page, so this hypothesis is not considered as the root cause. Fix the other fault first, then measure again."
    )

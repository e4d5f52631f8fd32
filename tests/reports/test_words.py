"""What pages and the terminal say: numbers, escapes, marks."""

from __future__ import annotations

import io
import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from etrm.investigation.evidence.table import Effect
from etrm.investigation.judgement import CommonReason
from etrm.investigation.records import NotMeasured, Verdict
from etrm.investigation.result import CauseCode, ReferenceResult, Result
from etrm.reference.departure import PipelineStage
from reports import summary
from reports.markdown import (
    code,
    count,
    duration,
    escape,
    fenced,
    interval,
    link,
    number,
    paragraph,
    plain,
    table,
    value,
)
from reports.names import make_unique, name_pages, slug
from reports.pages.hypothesis_page import hypothesis_page, primary
from reports.pages.index_page import SHARED_ONCE, cause_kind, cause_name, index_page, root_cause
from reports.pages.sections import controls_table, cost, screening_note
from reports.pages.standing import explained_by, marks, place
from reports.terminal.summary import announcement

ORDER = ("H4", "H1", "H2")
MARKDOWN = MarkdownIt("commonmark").enable("table")


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (3.0, "3"),
        (123456.0, "123456"),
        (0.5, "0.5000"),
        (-1.23456, "-1.235"),
        (12.3456, "12.35"),
        (9.99999, "10.00"),
        (123456.7, "123457"),
        (0.00123456, "0.001235"),
        (0.000123456, "1.235e-04"),
        (1.5e9, "1.500e+09"),
        (math.nan, "NaN"),
        (-math.inf, "-inf"),
    ],
)
def test_numbers_have_four_significant_digits(x: float, text: str) -> None:
    assert number(x) == text


def test_what_was_not_measured_is_never_a_number() -> None:
    assert value(None) == "—"
    assert value(NotMeasured(absent="no run finished")) == "not measured (no run finished)"
    assert interval(None, None) == "—"
    assert interval(0.1, None) == "[0.1000, inf]"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (59.99, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts() -> None:
    assert (count(1, "seed"), count(3, "seed"), count(12000, "step")) == ("1 seed", "3 seeds", "12 000 steps")


def spoken(markdown: str) -> str:
    """The text that a reader of the rendered markdown sees, if it is one paragraph."""
    tokens = MARKDOWN.parse(markdown)
    assert [t.type for t in tokens] in (["paragraph_open", "inline", "paragraph_close"], [])
    words = [" " if c.type == "softbreak" else c.content for t in tokens for c in t.children or []]
    assert {c.type for t in tokens for c in t.children or []} <= {
        "text",
        "softbreak",
        "code_inline",
        "text_special",
    }
    return "".join(words)


@given(st.text(alphabet=st.sampled_from("ab1 .-+#>=<*_~`|[]()!&;\\\n/:"), max_size=80))
def test_text_is_shown_as_it_is_written(text: str) -> None:
    def bare(words: str) -> str:
        return re.sub(r"[`\s]", "", words)

    assert bare(spoken(paragraph(escape(text)))) == bare(text)


@example("`]``")
@example("`[``")
@given(st.text(alphabet=st.sampled_from("ab1 .<>*_`|[]()!\\:"), max_size=40))
def test_a_link_leads_where_it_says_whatever_its_label(text: str) -> None:
    children = MARKDOWN.parseInline(link(escape(text), "a b.md"))[0].children or []
    assert [child.type for child in children if child.type in ("link_open", "link_close", "image")] == [
        "link_open",
        "link_close",
    ]
    assert children[0].attrGet("href") == "a%20b.md"
    assert children[-1].type == "link_close"


@given(st.text(max_size=30))
def test_any_text_can_be_code(text: str) -> None:
    if not plain(text):
        assert code(text) == "—"
        return
    (token,) = MARKDOWN.parseInline(code(text))[0].children or []
    assert (token.type, token.content) == ("code_inline", plain(text).replace("\0", "�"))


@given(st.text(alphabet="`~ab\n", max_size=30))
def test_a_fence_holds_any_text(text: str) -> None:
    assert [t.type for t in MARKDOWN.parse(fenced(text, "sh"))] == ["fence"]


@given(st.lists(st.lists(st.text(alphabet="ab|\\`<_* ", max_size=9), min_size=3, max_size=3), max_size=4))
def test_a_table_keeps_its_cells(rows: list[list[str]]) -> None:
    tokens = MARKDOWN.parse(table(["a", "b", "c"], [[escape(cell) for cell in row] for row in rows], "lr"))
    assert sum(t.type == "td_open" for t in tokens) == 3 * len(rows)
    assert sum(t.type == "tr_open" for t in tokens) == len(rows) + 1


def test_a_wrapped_line_starts_no_list() -> None:
    text = "x" * 98 + " 12. is a number and " + "y" * 80 + " - is a dash"
    assert "12\\. is" in paragraph(text)
    assert "\n\\- is" in paragraph(text)


def test_page_names_are_safe_and_unique() -> None:
    assert slug("../../Etc/passwd") == "etc-passwd"
    assert slug("…") == "page"
    assert make_unique(["H1", "h1", "index"], taken=["index"]) == ["h1", "h1-2", "index-2"]


def test_the_effect_named_first_is_the_one_that_failed(example: Result) -> None:
    row = primary(example.hypotheses["H2"].evidence)
    assert row is not None
    assert row.code == "h2.coverage-lowest"


def test_what_more_seeds_would_decide_speaks_before_what_passed(example: Result) -> None:
    passed = example.hypotheses["H2"].evidence[1].replace(passed=True)
    effect = Effect(by_seed=(0.1, 0.2), smallest=0.25)
    undecided = passed.replace(metric="open", passed=None, effect=effect)
    assert primary((passed, undecided)) == undecided
    assert primary((passed, undecided.replace(effect=None))) == passed
    failed = passed.replace(passed=False)
    assert primary((passed, undecided, failed)) == failed


def test_a_verdict_that_is_told_at_once_says_when_and_what_could_explain_it(example: Result) -> None:
    found = example.hypotheses["H2"].replace(decided_after_s=48.04, sentence="It moves")
    said = announcement(found).plain
    facts = (found.id, found.title, found.verdict.value, "48.0 s", found.sentence)
    assert all(fact in said for fact in facts)
    assert "H3" not in said
    assert "H3" in announcement(found.replace(explained_by="H3")).plain


def test_the_index_says_when_the_root_cause_was_named(example: Result) -> None:
    assert "48.0 s" not in index_page(example, *name_pages(example))
    timed = example.hypotheses["H2"].replace(decided_after_s=48.04)
    found = example.replace(hypotheses=example.hypotheses | {"H2": timed})
    assert "48.0 s" in index_page(found, *name_pages(found))
    candidate = found.replace(root_cause_confidence="candidate")
    assert "48.0 s" not in index_page(candidate, *name_pages(candidate))


def test_hypotheses_behind_the_root_cause_say_so(example: Result) -> None:
    assert [place(example, key) for key in ("H4", "H1", "H2")] == ["downstream", "clear", "root cause"]
    alone = example.replace(root_cause=None, cause_code=CauseCode.NONE, root_cause_confidence=None)
    noted = {key: hypothesis_page(example, key, ()) != hypothesis_page(alone, key, ()) for key in ORDER}
    assert noted == {"H4": True, "H1": False, "H2": True}


def test_a_control_that_is_a_candidate_is_not_told_to_be_something_else(example: Result) -> None:
    controls = [control for hypothesis in example.hypotheses.values() for control in hypothesis.controls]
    positive = next(control for control in controls if control.kind == "positive")
    few = positive.replace(got=Verdict.INCONCLUSIVE, candidate=True, behaved=True)
    assert controls_table([few]).count("candidate") == 2  # as what it must be, and as what it was
    assert "candidate" not in controls_table([positive])


def test_a_candidate_is_never_called_the_root_cause(example: Result) -> None:
    candidate = example.replace(root_cause_confidence="candidate")
    pages = name_pages(candidate)[0]
    assert cause_kind(candidate) != cause_kind(example)
    assert cause_kind(candidate) in root_cause(candidate, pages)
    assert cause_kind(example) not in root_cause(candidate, pages)
    assert hypothesis_page(candidate, "H4", ()) != hypothesis_page(example, "H4", ())


def test_without_a_root_cause_the_index_says_none(example: Result) -> None:
    clean = example.replace(cause_code=CauseCode.NONE, root_cause=None, root_cause_confidence=None)
    said = root_cause(clean, name_pages(clean)[0])
    assert cause_name(clean) in said
    assert not any(key in cause_name(clean) for key in clean.hypotheses)


def test_code_that_departs_is_the_root_cause_where_no_hypothesis_is(example: Result) -> None:
    clean = example.replace(cause_code=CauseCode.NONE, root_cause=None, root_cause_confidence=None)
    reference = ReferenceResult(codes=("test.planted",), sentence="planted", stage=PipelineStage.HALTING)
    departs = clean.replace(cause_code=CauseCode.DEPARTS, reference=reference)
    headline = cause_name(departs)
    assert PipelineStage.HALTING.value in headline
    assert headline != cause_name(clean.replace(reference=reference)) == cause_name(clean)
    assert headline in root_cause(departs, name_pages(departs)[0])
    assert headline in printed(departs)


def test_a_comparison_that_is_the_verdict_on_the_root_cause_is_not_printed_again(example: Result) -> None:
    cause = example.hypotheses["H2"]
    compared = ReferenceResult(codes=("test.planted",), sentence="planted", hypothesis="H2")
    assert "planted" in printed(example.replace(reference=compared))
    decided = {**example.hypotheses, "H2": cause.replace(codes=compared.codes)}
    assert "planted" not in printed(example.replace(reference=compared, hypotheses=decided))
    other = compared.replace(hypothesis="H3")
    assert "planted" in printed(example.replace(reference=other, hypotheses=decided))


def test_screening_is_marked_wherever_the_verdict_stands(example: Result) -> None:
    page = hypothesis_page(example, "H4", ())
    marked = f"(**INCONCLUSIVE**) {marks(example, 'H4')}"
    assert marked in page
    assert screening_note(True) in page
    pages, experiments = name_pages(example)
    assert marked in index_page(example, pages, experiments)
    assert marks(example, "H4") in printed(example)


def printed(result: Result, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(summary(result))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_terminal_says_cause_verdicts_and_next_step_in_this_order(example: Result) -> None:
    text = printed(example, width=200)
    parts = [
        "Root cause: H2, Encoder gradients",
        "H5",
        "ERROR",
        "H1",
        "INVALIDATED",
        "NOT RUN: H7",
        "scenario B",
        "Next step: Look",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert "\x1b" not in text


def test_the_terminal_takes_brackets_as_text(example: Result) -> None:
    assert "[-0.01, 0.4]" in printed(example.replace(sentence="[bold] [/nothing]"), width=200)


def test_the_terminal_needs_no_hypothesis(example: Result) -> None:
    empty = example.replace(hypotheses={}, experiments=(), root_cause=None)
    assert cause_name(empty) in printed(empty)
    assert Verdict.NOT_RUN not in printed(empty)


def test_marks_stand_next_to_a_verdict_in_one_order(example: Result) -> None:
    lead = example.hypotheses["H4"].replace(candidate=True, explained_by="H2")
    found = example.replace(hypotheses=example.hypotheses | {"H4": lead})
    assert marks(found, "H4") == "(screening, candidate, explained by H2)"
    assert marks(found, "H1") == ""


def test_what_is_explained_names_what_explains_it_with_a_link(example: Result) -> None:
    assert explained_by(example, "H3") == "H2"
    assert "[H2](h2.md)" in hypothesis_page(example, "H3", ())
    assert f"(**VALIDATED**) {marks(example, 'H3')}" in index_page(example, *name_pages(example))
    assert marks(example, "H3") in printed(example, width=120)


def test_what_was_not_selected_explains_only_perhaps(example: Result) -> None:
    """The page named H2 as the explanation although nobody had tested it."""
    skipped = example.hypotheses["H2"].replace(verdict=Verdict.NOT_RUN, codes=(CommonReason.NOT_SELECTED,))
    found = example.replace(hypotheses=example.hypotheses | {"H2": skipped})
    assert marks(found, "H3") == "(perhaps explained by H2)"
    assert marks(example, "H3") == "(explained by H2)"
    pages = [" ".join(hypothesis_page(one, "H3", ()).split()) for one in (found, example)]
    assert [re.findall(r"explained by \[H2\]\(h2.md\)\*\*(.)", page) for page in pages] == [[","], [":"]]


def test_a_run_that_two_parts_share_costs_once(example: Result) -> None:
    parts = [*example.hypotheses.values(), *example.experiments]
    runs = [run for part in parts for run in part.runs]
    together = cost(runs, math.fsum(run.wall_s for run in runs))
    once = next(part for part in parts if part.runs)
    again = example.hypotheses["H1"].replace(runs=once.runs)
    shared = example.replace(hypotheses={**example.hypotheses, "H1": again})
    before, after = (flat(index_page(result, *name_pages(result))) for result in (example, shared))
    assert together in before
    assert together in after
    twice = [*runs, *once.runs]
    assert cost(twice, math.fsum(run.wall_s for run in twice)) not in after
    assert SHARED_ONCE not in before
    assert SHARED_ONCE in after


def flat(page: str) -> str:
    return page.replace("\n", " ")


def test_a_mechanism_next_to_the_root_cause_is_no_second_one(example: Result) -> None:
    found = example.hypotheses["H4"]
    inside = example.replace(hypotheses=example.hypotheses | {"H4": found.replace(scope="mechanism")})
    note = "downstream of the root cause"
    assert note in hypothesis_page(example, "H4", ()).replace("\n", " ")
    assert note not in hypothesis_page(inside, "H4", ()).replace("\n", " ")
    assert place(inside, "H4") == "downstream"

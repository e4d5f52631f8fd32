"""The text of an audit: cause and remedy of each fault in 80 columns, colours on demand alone."""

from __future__ import annotations

import re

import pytest

from diagnostics import Evidence, Finding, Severity, to_html, to_markdown, to_sarif, to_text
from diagnostics.report import text

EVIDENCE = Evidence("coverage", 0.02, 0.5, 3, 19)


def finding(module: str, severity: Severity = Severity.CRITICAL, **changes: object) -> Finding:
    told = {
        "message": f"{module}: a share of 0.02 of the 50 samples in the loss sends gradient through it (last step)",
        "cause": "it computes part of the batch in a step; the other samples use a carry or a cache",
        "remedy": "Compute it for all samples of the loss in each step, not only for those that are new.",
        "code": "part-of-batch",
        "rule": "COV001",
        "evidence": EVIDENCE,
        **changes,
    }
    return Finding(severity=severity, module=module, **told)  # type: ignore[arg-type]  # fields by name


def test_a_fault_has_cause_and_remedy_in_80_columns() -> None:
    follows = finding("core", Severity.WARNING, rule="MOVE002")
    shown = to_text([finding("encoder", consequences=(follows,), file="net.py", line=12), finding("head")])
    assert max(map(len, shown.splitlines())) <= 80
    words = " ".join(shown.split())
    assert words.startswith("Faults: 1 critical. critical COV001 encoder: a share")
    assert "also in head" in words  # one fault in two modules
    assert "cause it computes part of the batch" in words
    assert "[part-of-batch]" in words
    assert "remedy Compute it for all samples" in words
    assert "steps 3 to 19" in words
    assert "code net.py:12" in words
    assert "explains MOVE002 in core" in words
    assert shown.count("remedy") == 1


def test_a_cause_that_the_message_states_is_not_repeated() -> None:
    stated = finding("encoder", message="encoder: it is detached", cause="it is detached", code="detached")
    for shown in (to_text([stated]), to_markdown([stated]), to_html([stated]), to_sarif([stated])):
        assert shown.count("it is detached") == 1
        assert "detached" in shown.replace("it is detached", "")  # its code


def test_another_cause_is_another_fault() -> None:
    shown = to_text([finding("encoder"), finding("head", code="samples-cut")])
    assert shown.startswith("Faults: 2 critical.")
    assert shown.count("  remedy ") == 2


def test_notes_are_a_line_each_and_no_fault() -> None:
    notes = [finding(name, Severity.NOTE, message="a note") for name in ("a", "b")]
    assert (
        to_text(notes) == "No findings above a note.\n\n  note     COV001 a note\n  note     COV001 a note\n"
    )
    assert to_text([]) == "No findings.\n"


def test_colours_change_no_character() -> None:
    found = [finding("encoder"), finding("head", Severity.NOTE)]
    colored = to_text(found, color=True)
    assert "\x1b[1;31mcritical COV001\x1b[0m" in colored
    assert re.sub(r"\x1b\[[\d;]*m", "", colored) == to_text(found)
    assert "\x1b" not in to_text(found)


@pytest.mark.parametrize(
    ("terminal", "variables", "colored"),
    [(True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False)],
)
def test_a_pipe_has_80_columns_and_no_colours(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, variables: dict[str, str], colored: bool
) -> None:
    monkeypatch.setattr(text.sys.stdout, "isatty", lambda: terminal, raising=False)
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "200")
    assert text.is_colored() == colored
    assert text.terminal_width() == (100 if terminal else 80)

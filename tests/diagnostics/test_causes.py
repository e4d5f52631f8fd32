"""Identity hangs on codes: words may change, codes are closed, unique and documented."""

from __future__ import annotations

import ast
import pickle
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import diagnostics
from diagnostics import RULES, Cause, Evidence, Finding, InvalidValue, Rule, ToolkitError, UnknownName
from diagnostics.findings import METRICS, Severity
from diagnostics.recording.calls.unknown_rows import RECOMPUTED_ROWS
from diagnostics.reference.error_catalog import toolkit_sites
from diagnostics.reference.explanations import explain_code, toolkit_groups
from diagnostics.rules.families.weights.movement import MOVE001, WEIGHT_DECAY
from tests.diagnostics.refusals import refused

CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
ERROR_CODE = re.compile(rf"{CODE.pattern}\.{CODE.pattern}")
SOURCES = sorted(Path(diagnostics.__file__).parent.rglob("*.py"))
PAIRS = [(rule, cause) for rule in RULES for cause in rule.causes]
WORDS = st.text(max_size=30)


def example(rule: Rule, cause: Cause, module: str = "encoder") -> Finding:
    fields = re.findall(r"\{(\w+)", cause.sentence)
    told = cause.of(**dict.fromkeys(fields, 3))
    return rule.finding(module, "a message", Evidence(rule.metric, 0.5, None, 0, 4), told)


@given(pair=st.sampled_from(PAIRS), words=st.tuples(WORDS, WORDS, WORDS), value=st.floats(allow_nan=True))
def test_a_fingerprint_depends_on_rule_module_and_code_alone(
    pair: tuple[Rule, Cause], words: tuple[str, str, str], value: float
) -> None:
    found = example(*pair)
    message, cause, remedy = words
    reworded = replace(
        found,
        message=message,
        cause=cause,
        remedy=remedy,
        severity=Severity.NOTE,
        evidence=Evidence("another", value, value, 7, 9),
        consequences=(found,),
    )
    assert reworded.fingerprint == found.fingerprint


@given(pair=st.sampled_from(PAIRS), words=WORDS)
def test_a_rule_that_words_its_causes_otherwise_finds_the_same(pair: tuple[Rule, Cause], words: str) -> None:
    rule, cause = pair
    other = Cause(cause.code, words.replace("{", "").replace("}", ""))
    assert example(replace(rule, title=words, remedy=words), other).fingerprint == example(*pair).fingerprint


def test_another_rule_module_or_code_is_another_fingerprint() -> None:
    prints = {example(rule, cause, module).fingerprint for rule, cause in PAIRS for module in ("", "encoder")}
    assert len(prints) == 2 * len(PAIRS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_causes_of_a_rule_are_a_closed_list(rule: Rule) -> None:
    codes = [cause.code for cause in rule.causes]
    assert codes
    assert len(set(codes)) == len(codes)
    assert all(CODE.fullmatch(code) for code in codes)
    assert rule.metric in METRICS
    evidence = Evidence(rule.metric, 0.0, None, 0, 0)
    with refused(ValueError, "rules.unlisted-cause", rule=rule.id, cause="no-such-cause"):
        rule.finding("", "", evidence, Cause("no-such-cause", "words"))


def test_every_cause_is_of_a_rule_and_a_code_names_one() -> None:
    declared = {
        ast.literal_eval(call.args[0])
        for _, call in calls("Cause")
        if call.args and isinstance(call.args[0], ast.Constant)
    }
    assert declared == {cause.code for _, cause in PAIRS}
    sentences: dict[str, set[str]] = {}
    for _, cause in PAIRS:
        sentences.setdefault(cause.code, set()).add(cause.sentence)
    assert {code: found for code, found in sentences.items() if len(found) > 1} == {}


def test_a_cause_is_what_its_code_and_facts_are() -> None:
    decay = WEIGHT_DECAY.of(group=0)
    assert decay == Cause("weight-decay", "reworded {group}").of(group=0).adding(", more words")
    assert decay != WEIGHT_DECAY.of(group=1)
    assert "group 0 " in str(decay)
    assert "group GROUP " in WEIGHT_DECAY.documented
    assert "rows={...}" in str(RECOMPUTED_ROWS)


def test_a_finding_has_the_remedy_of_its_cause_and_else_that_of_its_rule() -> None:
    for rule, cause in PAIRS:
        assert example(rule, cause).remedy == (cause.remedy or rule.remedy)
    told_elsewhere = Cause(MOVE001.causes[0].code, "words of an absent value")  # a reason carries no remedy
    assert example(MOVE001, told_elsewhere).remedy == MOVE001.causes[0].remedy != MOVE001.remedy


@cache
def nodes() -> tuple[list[tuple[str, ast.Call]], list[tuple[str, ast.Raise]]]:
    """Every call and every `raise` in the toolkit, with its file; parsed once for all tests."""
    found = [(path.name, node) for path in SOURCES for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    return (
        [(file, node) for file, node in found if isinstance(node, ast.Call)],
        [(file, node) for file, node in found if isinstance(node, ast.Raise)],
    )


def calls(name: str) -> list[tuple[str, ast.Call]]:
    """Every call of something of this name in the toolkit, with its file."""
    return [
        (file, node)
        for file, node in nodes()[0]
        if name in (getattr(node.func, "id", None), getattr(node.func, "attr", None))
    ]


KINDS = [
    "CaseError",
    "InvalidType",
    "InvalidValue",
    "NothingRecorded",
    "UnknownName",
    "UserError",
    "WrongOrder",
]
"""The kinds of `ToolkitError`."""


def test_every_error_has_a_code_of_its_own() -> None:
    found: dict[str, set[tuple[str, str]]] = {}
    for kind in KINDS:
        for file, call in calls(kind):
            code = call.args[0]
            if isinstance(code, ast.Constant):
                assert ERROR_CODE.fullmatch(code.value), code.value
                found.setdefault(code.value, set()).add((file, ast.dump(call.args[1])))
            else:  # hands an error of the toolkit on
                assert file in ("case_file.py", "script.py")
                assert ast.unparse(code) == "error.code"
    assert [code for code, places in found.items() if len(places) > 1] == []
    assert len(found) > 40


def test_every_error_is_explained_with_its_message() -> None:
    """Independent of the catalogue: the calls are read here a second time."""
    groups = toolkit_groups()
    for kind in KINDS:
        for _, call in calls(kind):
            if isinstance(call.args[0], ast.Constant):
                code, message = (argument.value for argument in call.args[:2])
                text = explain_code(code, groups)
                assert message in text
                assert f"`{kind}`" in text
    assert {site.kind for site in toolkit_sites()} <= set(KINDS)


def test_no_other_error_is_raised() -> None:
    raised = {
        (file, ast.unparse(node.exc.func)) for file, node in nodes()[1] if isinstance(node.exc, ast.Call)
    }
    assert {(file, name) for file, name in raised if name not in KINDS} == {
        ("__init__.py", "AttributeError"),  # the protocol of modules
        ("assertions.py", "CheckFailed"),  # its findings have codes
        ("assertions.py", "_coverage_failure"),
        ("fit_assertions.py", "CheckFailed"),
        ("loss_assertion.py", "CheckFailed"),
        ("output_assertions.py", "CheckFailed"),
        ("response_assertion.py", "CheckFailed"),
        ("named_models.py", "_unbuildable"),
        ("named_models.py", "_unknown"),
        ("script.py", "_nothing_watched"),
        ("selection.py", "_no_match"),
        ("step_reader.py", "_damaged"),
        ("tally.py", "_refuse"),
        ("whole_files.py", "_error"),  # of the operating system
    }


def test_everything_that_the_toolkit_leaves_absent_has_a_code() -> None:
    for file, call in calls("Absent"):
        assert len(call.args) == 2 or file == "step_reader.py", f"{file}:{call.lineno}"


def test_errors_travel_between_processes() -> None:
    error = UnknownName("selection.not-watched", "{got!r} is not {allowed}", got="a{b}", allowed="c")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.code, copy.facts, str(copy)) == (
        UnknownName,
        "selection.not-watched",
        {"got": "a{b}", "allowed": "c"},
        "'a{b}' is not c",
    )


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (InvalidValue, ValueError),
        (diagnostics.InvalidType, TypeError),
        (UnknownName, KeyError),
        (diagnostics.NothingRecorded, LookupError),
        (diagnostics.WrongOrder, RuntimeError),
    ],
)
def test_an_error_is_still_of_its_builtin_class(kind: type[ToolkitError], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin)

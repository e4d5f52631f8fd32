"""`python -m diagnostics`: explains what the toolkit has, a rule of a user, and refuses the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from diagnostics import RULES, explain
from diagnostics.__main__ import main
from diagnostics.reference.error_catalog import toolkit_sites

RULE = """
from diagnostics import Cause, Rule, Severity

RAN001 = Rule(
    "RAN001", Severity.NOTE, "It ran", "calls", "Nothing.", lambda record, options: [], causes=(Cause("ran", "it ran"),)
)
"""


def test_a_rule_is_explained_as_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "COV001"]) == 0
    assert capsys.readouterr().out == explain("COV001")


def test_without_a_code_every_rule_and_error_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    text = capsys.readouterr().out
    assert all(f"- `{rule.id}`: {rule.title}\n" in text for rule in RULES)
    assert all(f"- `{site.code}`: " in text for site in toolkit_sites())


def test_an_unknown_code_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "COV01"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "COV001" in printed.err


def test_a_rule_of_a_user_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my_rule.py"
    file.write_text(RULE)
    assert main(["explain", f"{file}:RAN001"]) == 0
    assert capsys.readouterr().out.startswith("# RAN001: It ran\n\nNote. Measures calls.\n")
    assert main(["explain", f"{file}:RAN002"]) == 2
    assert "RAN001" in capsys.readouterr().err


def test_pages_are_written_and_pages_of_rules_that_are_gone_removed(tmp_path: Path) -> None:
    (tmp_path / "GONE001.md").write_text("old")
    assert main(["pages", "--out", str(tmp_path)]) == 0
    assert {path.stem for path in tmp_path.iterdir()} == {"README", *(rule.id for rule in RULES)}

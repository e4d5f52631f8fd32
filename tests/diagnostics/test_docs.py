"""Every rule has its section, with everything that a section must say; no section is of no rule."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import diagnostics
from diagnostics import RULES, Rule, explain

DOCS = Path(diagnostics.__file__).parent.parent / "docs"


def sections() -> dict[str, str]:
    parts = re.split(r"^## (\w+)$", (DOCS / "rules.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_sections_are_the_rules() -> None:
    assert list(sections()) == [rule.id for rule in RULES]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_section_says_what_why_example_false_alarms_and_remedy(rule: Rule) -> None:
    section = sections()[rule.id]
    assert section.lstrip().startswith(f"{rule.title} ({rule.severity.label}).")
    parts = re.split(r"^\*\*(.+?)\.\*\*", section, flags=re.MULTILINE)
    assert parts[1::2] == ["What", "Why", "Example", "False alarms", "Remedy"]
    assert all(len(text.strip()) > 3 for text in parts[2::2])
    assert f"docs/rules.md#{rule.id.lower()}" in explain(rule.id)


def test_every_assertion_is_in_the_toolkit_page() -> None:
    page = (DOCS / "toolkit.md").read_text(encoding="utf-8")
    assert all(name in page for name in diagnostics.__all__ if name.startswith(("assert_", "to_")))

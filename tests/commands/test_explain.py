"""`etrm explain`: every code of the code base is explained, once; and what a user sees."""

from __future__ import annotations

import ast
import re
from collections import Counter
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import diagnostics
import etrm
import reports
from diagnostics import RULES
from diagnostics.reference.explanations import explain_code, list_groups
from etrm.commands import app
from etrm.commands.explain import all_groups
from etrm.errors import ConfigError, ExtensionError
from etrm.investigation.codes import declared, reasons
from etrm.investigation.evidence.table import Instrument, Metric
from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses
from etrm.investigation.result import CauseCode

RESULT_CODES = [
    *(cause.value for cause in CauseCode),
    *reasons(),
    *(metric.code for metric in declared(Metric)),
    *(check.code for check in declared(Instrument)),
]


def error_codes() -> set[str]:
    """Every literal that is the first argument of a raised error, read here a second time."""
    packages = [Path(folder) for package in (etrm, reports, diagnostics) for folder in package.__path__]
    found = set()
    sources = [path.read_text("utf-8") for package in packages for path in package.rglob("*.py")]
    for source in (source for source in sources if re.search(r"\braise\b", source)):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                first = node.exc.args[0]
                if isinstance(first, ast.Constant) and re.fullmatch(
                    r"[a-z0-9-]+\.[a-z0-9-]+", str(first.value)
                ):
                    found.add(first.value)
    return found


def test_every_code_of_the_code_base_is_explained() -> None:
    codes = error_codes()
    assert len(codes) > 150
    for code in [*(rule.id for rule in RULES), *all_hypotheses(), *codes, *RESULT_CODES]:
        assert explain_code(code, all_groups()).startswith(f"# {code}")


def test_a_code_of_one_kind_stands_in_one_group_once() -> None:
    for heading, topics in all_groups().items():
        repeated = [code for code, count in Counter(topic.code for topic in topics).items() if count > 1]
        assert repeated == [], heading
    errors = [
        topic.code for heading in ("Errors", "Errors of the toolkit") for topic in all_groups()[heading]
    ]
    assert [code for code, count in Counter(errors).items() if count > 1] == []


def test_the_list_has_every_code_under_the_heading_of_its_group() -> None:
    text = list_groups(all_groups())
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == list(all_groups())
    listed = re.findall(r"^- `([^`]+)`: .", text, flags=re.MULTILINE)
    assert listed == [topic.code for topics in all_groups().values() for topic in topics]


@pytest.mark.parametrize(
    "code", ["COV001", "cov001", "H2", "h2", "config.unknown-setting", "monitor.detached"]
)
def test_a_pipe_gets_markdown(code: str) -> None:
    done = CliRunner().invoke(app, ["explain", code])
    assert done.exit_code == 0
    assert done.output == explain_code(code, all_groups())


def test_an_unknown_code_names_the_nearest() -> None:
    done = CliRunner().invoke(app, ["explain", "COV01"])
    error = done.exception
    assert isinstance(error, ConfigError)
    assert error.code == "explain.unknown-code"
    assert "COV001" in str(error.allowed)


def test_a_terminal_gets_rendered_text(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = StringIO()
    terminal = Console(file=shown, force_terminal=True, width=80)
    monkeypatch.setattr("reports.terminal.console.open_console", lambda: terminal)
    assert CliRunner().invoke(app, ["explain", "COV001"]).exit_code == 0
    text = shown.getvalue()
    assert "COV001: Few samples train the module" in text
    assert "**" not in text
    assert "\x1b[" in text


RULE = """
from diagnostics import Cause, Observation, Rule, Severity

RAN = Cause("ran", "it ran")
RAN001 = Rule(
    "RAN001", Severity.WARNING, "It ran", "calls", "Nothing.",
    lambda record, options: [Observation("0", 1.0, "0: it ran", RAN)], causes=(RAN,),
)
WRONG = 3
"""
CASE = """
import torch


def make_case():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    return {"model": model, "step": lambda model, batch: model(batch).sum(), "batches": [torch.ones(3, 2)]}
"""


def test_a_rule_of_a_user_is_explained_and_audited_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_rule.py").write_text(RULE)
    Path("my_case.py").write_text(CASE)
    done = CliRunner().invoke(app, ["explain", "my_rule.py:RAN001"])
    assert done.output.startswith("# RAN001: It ran\n")
    done = CliRunner().invoke(
        app, ["audit", "my_case.py:make_case", "--rule", "my_rule.py:RAN001", "--select", "RAN*"]
    )
    assert (done.exit_code, "0: it ran" in done.output) == (1, True)
    error = CliRunner().invoke(app, ["explain", "my_rule.py:WRONG"]).exception
    assert isinstance(error, ExtensionError)

"""Findings for machines and browsers: SARIF 2.1.0 for code hosts, and one HTML page without any other file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from html import escape
from pathlib import PurePath
from typing import Any

from diagnostics.findings import Finding, Severity, consequence_line, ordered
from diagnostics.rules.page import page
from diagnostics.rules.registry import with_own
from diagnostics.rules.rule import Rule

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Severity.NOTE: "note", Severity.WARNING: "warning", Severity.CRITICAL: "error"}


def to_sarif(findings: Iterable[Finding], artifact: str = "", rules: Iterable[Rule] = ()) -> str:
    """A SARIF 2.1.0 log with one run; it describes every rule, also those without a finding.

    Args:
        findings: Findings to write.
        artifact: Relative path of the file to show the findings at, such as the training script. Code hosts
            want one; without it the findings have a logical location alone, the module.
        rules: Rules of your own that the monitor was given.
    """
    known = with_own(rules)
    index = {rule.id: number for number, rule in enumerate(known)}
    run = {
        "tool": {
            "driver": {
                "name": "diagnostics",
                "rules": [_descriptor(rule) for rule in known],
            }
        },
        "results": [_result(finding, index, artifact) for finding in ordered(findings)],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, allow_nan=False)


def _descriptor(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": f"{rule.title}."},
        "help": {"text": rule.remedy, "markdown": page(rule)},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _result(finding: Finding, index: dict[str, int], artifact: str) -> dict[str, Any]:
    evidence = finding.evidence
    location: dict[str, Any] = {"logicalLocations": [_logical(finding)]}
    own = (
        bool(finding.file) and not PurePath(finding.file).is_absolute()
    )  # code hosts know files of the checkout
    if own or artifact:
        location["physicalLocation"] = {
            "artifactLocation": {"uri": PurePath(finding.file).as_posix() if own else artifact},
            "region": {"startLine": finding.line if own else 1},
        }
    cause = "" if finding.states_cause else f"Likely cause: {finding.cause}. "
    result = {
        "ruleId": finding.rule,
        # a probe of a user's own has no description here
        **({"ruleIndex": index[finding.rule]} if finding.rule in index else {}),
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.message}. {cause}What to do: {finding.remedy}"},
        "locations": [location],
        "partialFingerprints": {"diagnostics/v2": finding.fingerprint},
        "properties": {
            "code": finding.code,
            "metric": evidence.metric,
            "value": evidence.value if math.isfinite(evidence.value) else None,
            "threshold": evidence.threshold,
            "firstStep": evidence.first_step,
            "lastStep": evidence.last_step,
        },
    }
    if finding.consequences:
        result["relatedLocations"] = [
            {
                "id": number,
                "logicalLocations": [_logical(follows)],
                "message": {"text": f"Explained by this: {consequence_line(follows)}"},
            }
            for number, follows in enumerate(finding.consequences)
        ]
    return result


def _logical(finding: Finding) -> dict[str, Any]:
    named = {"fullyQualifiedName": finding.module} if finding.module else {}
    return {"name": finding.module.rpartition(".")[2] or "model", "kind": "module"} | named


_PAGE = "body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }"
_STYLE = """
.diagnostics article { border-left: .4em solid #7a7a7a; padding: .1em 1em; margin: 1em 0; background: #7a7a7a14; }
.diagnostics article.warning { border-color: #b7791f; } .diagnostics article.critical { border-color: #b83227; }
.diagnostics h2 { font-size: 1em; margin: .5em 0; } .diagnostics dt { font-weight: 600; }
.diagnostics dd { margin: 0 0 .4em 0; } .diagnostics pre { overflow-x: auto; }
"""


def to_html(findings: Iterable[Finding], title: str = "Findings", table: str = "") -> str:
    """A page that needs no other file and no script.

    Args:
        findings: Findings to show.
        title: Title of the page.
        table: Text to show unchanged under the findings, such as `module_table(monitor.last)`.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n<style>{_PAGE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{to_fragment(findings, table)}</body>\n</html>\n"
    )


def to_fragment(findings: Iterable[Finding], table: str = "") -> str:
    """The findings as HTML to place in a page, as a notebook does."""
    found = ordered(findings)
    counts = ", ".join(
        f"{sum(finding.severity is severity for finding in found)} {severity.label}"
        for severity in sorted(Severity, reverse=True)
    )
    body = "\n".join(_article(finding) for finding in found) or "<p>No findings.</p>"
    shown = f"<pre>{escape(table)}</pre>\n" if table else ""
    return f'<div class="diagnostics">\n<style>{_STYLE}</style>\n<p>{counts}</p>\n{body}\n{shown}</div>\n'


def _article(finding: Finding) -> str:
    terms = (
        ("Evidence", str(finding.evidence)),
        *([] if finding.states_cause else [("Likely cause", finding.cause)]),
        *([("Code", finding.code)] if finding.code else []),
        ("What to do", finding.remedy),
        *([("Source", f"{finding.file}:{finding.line}")] if finding.file else []),
    )
    listed = "\n".join(f"<dt>{term}</dt><dd>{escape(text)}</dd>" for term, text in terms)
    items = "\n".join(f"<li>{escape(consequence_line(follows))}</li>" for follows in finding.consequences)
    explained = (
        f"<details><summary>Explains {len(finding.consequences)} more</summary>\n<ul>\n{items}\n</ul></details>\n"
        if items
        else ""
    )
    return (
        f'<article class="{finding.severity.label}">\n'
        f"<h2>{finding.severity.label}: {finding.rule} {escape(finding.module or 'model')}</h2>\n"
        f"<p>{escape(finding.message)}</p>\n<dl>\n{listed}\n</dl>\n{explained}</article>"
    )

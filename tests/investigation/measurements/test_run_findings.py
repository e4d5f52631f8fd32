"""Findings of several runs, grouped; notes and runs that did not end say nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from etrm.errors import RunFolderError
from etrm.investigation.measurements.run_findings import group_serious
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.loaded_run import LoadedRun
from tests.errors import raises_code
from tests.investigation.planted import planted


def record(rule: str, module: str, severity: str, message: str) -> dict[str, str]:
    return {"rule": rule, "module": module, "severity": severity, "message": message}


def run(root: Path, seed: int, *records: dict[str, str]) -> LoadedRun:
    (planted_run,) = planted(ArmId("a"), [1.0])
    found = replace(planted_run, path=root / f"seed{seed}")
    found.path.mkdir()
    if records:
        (found.path / "findings.json").write_text(json.dumps(records), "utf-8")
    return found


def test_findings_of_one_rule_in_one_module_stand_together(tmp_path: Path) -> None:
    first = record("GRAD001", "encoder", "critical", "first")
    runs = [
        run(tmp_path, 0, first, record("GRAD001", "core", "warning", "other module")),
        run(
            tmp_path,
            1,
            record("COST001", "encoder", "note", "a note"),
            record("GRAD001", "encoder", "critical", "second"),
        ),
        run(tmp_path, 2),  # it did not end
    ]
    found = group_serious(finding for each in runs for finding in each.findings)
    assert list(found) == [("GRAD001", "encoder"), ("GRAD001", "core")]
    assert [r["message"] for r in found["GRAD001", "encoder"]] == ["first", "second"]
    assert [len(each.findings) for each in runs] == [2, 2, 0]


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    one = run(tmp_path, 0)
    (one.path / "findings.json").write_text("[{", "utf-8")
    with raises_code(RunFolderError, "run.damaged-file", one.path / "findings.json"):
        _ = one.findings

"""Findings of several runs, grouped; notes and runs that did not end say nothing."""

from __future__ import annotations

import json
from pathlib import Path

from etrm.errors import RunFolderError
from etrm.investigation.records import Run
from tests.errors import raises_code


def record(rule: str, module: str, severity: str, message: str) -> dict[str, str]:
    return {"rule": rule, "module": module, "severity": severity, "message": message}


def run(root: Path, seed: int, *records: dict[str, str]) -> Run:
    found = Run(
        arm="a", seed=seed, folder=f"runs/a/seed{seed}", steps=1, wall_s=0.0, state="finished", final={}
    )
    (root / found.folder).mkdir(parents=True)
    if records:
        (root / found.folder / "findings.json").write_text(json.dumps(records), "utf-8")
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
    found = serious(written(tmp_path, runs))
    assert list(found) == [("GRAD001", "encoder"), ("GRAD001", "core")]
    assert [r["message"] for r in found["GRAD001", "encoder"]] == ["first", "second"]
    assert len(written(tmp_path, runs)) == 4


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    one = run(tmp_path, 0)
    (tmp_path / one.folder / "findings.json").write_text("[{", "utf-8")
    with raises_code(RunFolderError, "run.damaged-file", tmp_path / one.folder / "findings.json"):
        written(tmp_path, [one])

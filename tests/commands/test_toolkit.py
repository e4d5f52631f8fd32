"""`etrm audit` as a user meets it: exit codes, files, and whose traceback is shown."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.audited_case import CASE
from tests.command_line import Ended, etrm
from tests.errors import assert_holds


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "case.py"
    path.write_text(CASE)
    return path


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """An audited file may import its neighbours, so its folder is put on the path."""
    monkeypatch.setattr("sys.path", [*sys.path])


def audit(*words: str) -> Ended:
    return etrm("audit", *words)


def test_findings_give_1_and_a_baseline_of_them_0(file: Path) -> None:
    known = str(file.with_name("known.json"))
    ended = audit(f"{file}:make_case", "--write-baseline", known)
    assert ended.code == 1
    assert "GRAD001  encoder" in ended.out
    assert audit(f"{file}:make_case", "--baseline", known).code == 0
    assert audit(f"{file}:make_case", "--ignore", "encoder").code == 0
    assert audit(f"{file}:healthy").code == 0


def test_a_file_in_the_format_asked_for(file: Path) -> None:
    out = file.with_name("audit.sarif")
    assert audit(f"{file}:make_case", "--format", "sarif", "--out", str(out)).code == 1
    (run,) = json.loads(out.read_text())["runs"]
    result = run["results"][0]
    assert result["ruleId"] == "GRAD001"
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == str(file)


def test_a_script_is_audited_as_it_is(file: Path) -> None:
    script = file.with_name("script.py")
    script.write_text(
        "import sys\nfrom case import *\nmodel = make_case(sys.argv[1] == '--cut')['model']\n"
        "optimizer = torch.optim.SGD(model.parameters(), 0.1)\n"
        "for _ in range(30):\n"
        "    optimizer.zero_grad()\n    model(torch.randn(8, 4)).square().mean().backward()\n    optimizer.step()\n"
    )
    ended = audit(str(script), "--steps", "6", "--", "--cut")
    assert ended.code == 1
    assert "GRAD001  encoder" in ended.out
    assert audit(str(script), "--all", "--", "--whole").code == 0
    assert audit(str(script)).code == 2  # without its argument it raises


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["{file}:nothing"], ["audit.bad-case", "'nothing'"]),
        (["{file}:make_case", "--format", "pdf"], ["audit.unknown-format", "'pdf'"]),
        (["{file}:make_case", "--ignore", "encodr"], ["audit.bad-case", "encodr", "encoder"]),
        (["{file}:make_case", "--baseline", "{file}"], ["audit.unreadable-baseline", "{file}"]),
        (["{file}:make_case", "--baseline", "{file}.no"], ["audit.unreadable-baseline", "{file}.no"]),
        (["{file}:make_case", "--out", "{file}/no/a.md"], ["output.not-writable"]),
        (["{file}:too_wide"], ["mat1 and mat2 shapes cannot be multiplied"]),  # torch's
    ],
)
def test_bad_input_gives_2(
    file: Path,
    words: list[str],
    values: list[str],
) -> None:
    ended = audit(*(word.format(file=file) for word in words))
    assert ended.code == 2
    assert_holds(ended.err, *(value.format(file=file) for value in values))
    assert "cli.py" not in ended.err
    assert "diagnostics/" not in ended.err

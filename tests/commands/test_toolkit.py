"""`etrm audit` as a user meets it: exit codes, files, and whose traceback is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cli
from tests.errors import assert_holds

CASE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, cut):
        super().__init__()
        self.encoder, self.decoder, self.cut = nn.Linear(4, 4), nn.Linear(4, 4), cut
    def forward(self, x):
        context = self.encoder(x)
        return self.decoder(context.detach() if self.cut else context)

def make_case(cut=True, width=4):
    torch.manual_seed(0)
    model = Net(cut)
    step = lambda model, x: model(x).square().mean()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return {"model": model, "step": step, "batches": [torch.randn(5, width)], "optimizer": optimizer}

def healthy(): return make_case(cut=False)
def too_wide(): return make_case(width=9)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "case.py"
    path.write_text(CASE)
    return path


def audit(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["etrm", "audit", *words])
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert isinstance(left.value.code, int)
    return left.value.code


def test_findings_give_1_and_a_baseline_of_them_0(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = str(file.with_name("known.json"))
    assert audit(monkeypatch, f"{file}:make_case", "--write-baseline", known) == 1
    assert "GRAD001  encoder" in capsys.readouterr().out
    assert audit(monkeypatch, f"{file}:make_case", "--baseline", known) == 0
    assert audit(monkeypatch, f"{file}:make_case", "--ignore", "encoder") == 0
    assert audit(monkeypatch, f"{file}:healthy") == 0


def test_a_file_in_the_format_asked_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = file.with_name("audit.sarif")
    assert audit(monkeypatch, f"{file}:make_case", "--format", "sarif", "--out", str(out)) == 1
    (run,) = json.loads(out.read_text())["runs"]
    result = run["results"][0]
    assert result["ruleId"] == "GRAD001"
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == str(file)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["{file}:nothing"], ["audit.bad-case", "'nothing'"]),
        (["{file}:make_case", "--format", "pdf"], ["audit.unknown-format", "'pdf'"]),
        (["{file}:make_case", "--ignore", "encodr"], ["audit.bad-case", "encodr", "encoder"]),
        (["{file}:make_case", "--baseline", "{file}"], ["audit.unreadable-baseline", "{file}"]),
        (["{file}:make_case", "--baseline", "{file}.no"], ["audit.unreadable-baseline", "{file}.no"]),
        (["{file}:make_case", "--out", "{file}/no/a.md"], ["audit.not-writable"]),
        (["{file}:too_wide"], ["mat1 and mat2 shapes cannot be multiplied"]),  # torch's
    ],
)
def test_bad_input_gives_2(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    values: list[str],
) -> None:
    assert audit(monkeypatch, *(word.format(file=file) for word in words)) == 2
    said = capsys.readouterr().err
    assert_holds(said, *(value.format(file=file) for value in values))
    assert "cli.py" not in said
    assert "diagnostics/" not in said

"""`etrm audit` as a user meets it: exit codes, files, and whose traceback is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cli

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
    ("words", "message"),
    [
        (["{file}:nothing"], "has no function 'nothing'"),
        (["{file}:make_case", "--format", "pdf"], "unknown --format 'pdf'"),
        (["{file}:make_case", "--ignore", "encodr"], "nearest: encoder"),
        (["{file}:make_case", "--baseline", "{file}"], "cannot read --baseline"),
        (["{file}:make_case", "--baseline", "{file}.no"], "cannot read --baseline"),
        (["{file}:make_case", "--out", "{file}/no/a.md"], "cannot write"),
        (["{file}:too_wide"], "mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_bad_input_gives_2(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    assert audit(monkeypatch, *(word.format(file=file) for word in words)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "cli.py" not in said
    assert "diagnostics/" not in said

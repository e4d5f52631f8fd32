"""A user's file becomes an audit; whatever is wrong is told as the user's or as ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from diagnostics import Severity
from diagnostics.auditing.case_file import CaseError, UserError, audit_file
from tests.diagnostics.refusals import refused

CASE = """
from dataclasses import dataclass
import torch
from torch import nn
from beside import LEARNING_RATE

@dataclass
class Data:
    x: torch.Tensor

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(4, 4)
    def forward(self, x):
        return self.decoder(self.encoder(x).detach())

def step(model, batch):
    return model(batch.x).square().mean()

def make_case(width=4, **changed):
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE)
    batches = [Data(torch.randn(5, width))]
    return {"model": model, "step": step, "batches": batches, "optimizer": optimizer, **changed}

def number(): return 3
def partial(): return {"model": Net(), "stepp": step}
def no_model(): return make_case(model=3)
def too_wide(): return make_case(width=9)
def misspelt(): return make_case(watch=["encodr"])
def raises(): return {}["nothing"]
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "beside.py").write_text("LEARNING_RATE = 0.1\n")
    path = tmp_path / "my_case.py"
    path.write_text(CASE)
    return path


def test_the_case_is_audited_with_the_modules_next_to_it(file: Path) -> None:
    found = audit_file(f"{file}:make_case")
    assert [(f.rule, f.module) for f in found.findings if f.severity > Severity.NOTE] == [
        ("GRAD001", "encoder")
    ]
    assert audit_file(f"{file}:make_case", ignore=["encoder"]).clean


@pytest.mark.parametrize(
    ("function", "code", "facts"),
    [
        ("number", "case.no-dictionary", {"got": "int"}),
        ("partial", "case.wrong-arguments", {"missing": "step, batches", "unknown": "stepp"}),
        ("no_model", "case.wrong-type", {"name": "model", "expected": "Module", "got": "int"}),
        ("misspelt", "selection.no-match", {"got": "encodr", "nearest": "encoder"}),
        ("make_cas", "case.no-function", {"got": "make_cas"}),
    ],
)
def test_a_case_that_cannot_be_audited(file: Path, function: str, code: str, facts: dict[str, str]) -> None:
    with refused(CaseError, code, **facts) as caught:
        audit_file(f"{file}:{function}")
    assert str(file) in str(caught.value)
    assert all(fact in str(caught.value) for fact in facts.values())


def test_a_file_without_a_function_is_run_as_a_script(file: Path) -> None:
    with refused(CaseError, "script.no-update", script=str(file)):  # which only makes functions
        audit_file(str(file))
    with refused(CaseError, "script.needs-function", options="terms"):
        audit_file(str(file), terms=["task"])
    with refused(CaseError, "script.steps-and-all"):
        audit_file(str(file), to_end=True, steps=3)
    with refused(CaseError, "case.not-a-script", got=f"{file}:make_case"):
        audit_file(f"{file}:make_case", ["--lr", "1"])


def test_a_script_is_not_run_for_a_function_that_it_cannot_have(tmp_path: Path) -> None:
    script, ran = tmp_path / "train.py", tmp_path / "ran"
    script.write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\ndef train():\n    pass\n")
    with refused(CaseError, "case.no-function", got="make_case", allowed="train"):
        audit_file(f"{script}:make_case")
    assert not ran.exists()


@pytest.mark.parametrize(
    "line",
    [
        "from {other} import *",
        "from {other} import made as make_case",
        "globals()['make_case'] = __import__('{other}').made",
        "for make_case in [__import__('{other}').made]: pass",
    ],
)
def test_a_function_may_come_from_anywhere(tmp_path: Path, file: Path, line: str) -> None:
    (tmp_path / "elsewhere.py").write_text(f"{file.read_text()}\nmade = make_case\n")
    script = tmp_path / "script.py"
    script.write_text(line.format(other="elsewhere"))
    audit_file(f"{script}:make_case")


def test_a_missing_function_and_a_wrong_argument_list_what_is_allowed(file: Path) -> None:
    with pytest.raises(CaseError) as caught:
        audit_file(f"{file}:make_cas")
    assert caught.value.facts["allowed"].startswith("step, make_case, number")
    with pytest.raises(CaseError) as caught:
        audit_file(f"{file}:partial")
    assert caught.value.facts["allowed"].startswith("model, step, batches")


@pytest.mark.parametrize("target", ["my_case", ":make", "my_case.py:", "my_case.py:a b"])
def test_a_target_that_is_none(target: str) -> None:
    with refused(CaseError, "case.bad-target", got=target):
        audit_file(target)


def test_no_file(tmp_path: Path) -> None:
    with refused(CaseError, "case.no-file", got=str(tmp_path / "no.py")):
        audit_file(str(tmp_path / "no.py"))
    with refused(CaseError, "case.no-file", got=str(tmp_path / "no.py")):
        audit_file(f"{tmp_path / 'no.py'}:make_case")
    (tmp_path / "notes.txt").write_text("")
    with refused(CaseError, "case.not-python", got=str(tmp_path / "notes.txt")):
        audit_file(f"{tmp_path / 'notes.txt'}:make_case")


@pytest.mark.parametrize(
    ("function", "line", "error"),
    [
        ("too_wide", "return model(batch.x).square().mean()", "RuntimeError: mat1 and mat2"),
        ("raises", 'return {}["nothing"]', "KeyError: 'nothing'"),
    ],
)
def test_the_users_traceback_begins_at_the_users_line(
    file: Path, function: str, line: str, error: str
) -> None:
    with pytest.raises(UserError) as raised:
        audit_file(f"{file}:{function}")
    assert raised.value.code == "case.user-code"
    shown = str(raised.value)
    assert error in shown
    assert line in shown.splitlines()[2]
    assert "diagnostics/" not in shown


def test_a_file_that_does_not_parse_or_import(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def make_case(:\n")
    with pytest.raises(UserError, match=r"broken.py\", line 1"):
        audit_file(f"{path}:make_case")
    path.write_text("import no_such_module_of_mine\nmake_case = dict\n")
    with pytest.raises(UserError, match="No module named 'no_such_module_of_mine'") as raised:
        audit_file(f"{path}:make_case")
    assert "import no_such_module_of_mine" in str(raised.value).splitlines()[2]

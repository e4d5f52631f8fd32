"""`etrm investigate my_model.py:make_model`: the report, and how a wrong adapter or option is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import cli
from tests.errors import assert_holds

MODEL = """
import torch
from etrm.investigation.own_model import ModelUnderTest

def step(model, batch):
    return (model(batch["x"]) - batch["y"]).square().mean()

def make_model(seed, step=step):
    batch = lambda index: {"x": torch.full((4, 2), float(index)), "y": torch.ones(4, 1)}
    return ModelUnderTest(model=torch.nn.Sequential(torch.nn.Linear(2, 1)), step=step, batch=batch, labels="y")

def leaves(seed):
    raise SystemExit("bye")

def returns_none(seed):
    pass

calls = []

def breaks_later(seed):
    def stops(model, batch):
        calls.append(1)
        if len(calls) > 20:
            raise RuntimeError("the file is closed")
        return step(model, batch)

    return make_model(seed, stops)

def without_loss(seed):
    return make_model(seed, lambda model, batch: step(model, batch).item())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(MODEL, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETRM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def run(*words: str) -> int:
    sys.argv[1:] = ["investigate", *words]
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["etrm"])


def test_the_report_is_that_of_any_investigation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("mine.py:make_model", "--hypotheses", "H1,H2", "--seeds", "1", "--out", "out") == 0
    shown = capsys.readouterr()
    assert "Root cause" in shown.out
    assert "NOT RUN: H1" in shown.out
    assert {"index.md", "h2.md", "report.html", "result.json"} <= {
        file.name for file in (folder / "out").iterdir()
    }


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("mine.py:without_loss",), "adapter.no-loss"),
        (("mine.py:leaves",), "adapter.factory-raised"),
        (("mine.py:returns_none",), "adapter.wrong-factory"),
        (("mine.py:make_modle",), "extension.no-name"),
        (("other.py:make_model",), "extension.no-file"),
        (("mine.py:make_model", "--hypotheses", "N1"), "investigate.unknown-own-hypothesis"),
        (("mine.py:make_model", "--preset", "small"), "cli.option-of-our-runs"),
        (("mine.py:make_model", "--tier", "full"), "cli.option-of-our-runs"),
    ],
)
def test_what_is_wrong_is_named_without_a_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: str
) -> None:
    assert run(*words, "--out", "out") == 2
    shown = capsys.readouterr()
    assert_holds(shown.err, code)
    assert "Traceback" not in shown.err + shown.out
    assert not (folder / "out").exists()


def test_a_function_that_breaks_later_is_refused_like_a_wrong_one_after_the_report(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("mine.py:breaks_later", "--hypotheses", "H5", "--out", "out") == 2
    shown = capsys.readouterr()
    assert_holds(shown.err, "adapter.step-raised", "the file is closed")
    assert "Traceback" not in shown.err + shown.out
    assert (folder / "out" / "report.html").exists()


def test_a_fault_can_end_the_command_with_an_exit_code(folder: Path) -> None:
    source = MODEL.replace(
        "Sequential(torch.nn.Linear(2, 1))", "Sequential(torch.nn.Linear(2, 1)).requires_grad_(False)"
    )
    (folder / "mine.py").write_text(source.replace("labels=", "optimizer=sgd, labels="), "utf-8")
    with (folder / "mine.py").open("a", encoding="utf-8") as file:
        file.write("\ndef sgd(model):\n    return torch.optim.SGD(model.parameters(), 0.1)\n")
    assert run("mine.py:make_model", "--hypotheses", "H2", "--out", "out", "--fail-on", "validated") == 1

"""`python -m diagnostics audit`: what it prints, its exit codes, and its options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diagnostics.__main__ import main
from tests.audited_case import CASE


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))  # an audited file may import its neighbours
    path = tmp_path / "case.py"
    path.write_text(CASE)
    return path


def test_a_fault_is_printed_with_cause_and_remedy_in_80_columns(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", f"{file}:make_case"]) == 1
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80 or str(file) in printed
    assert "critical GRAD001  encoder" in printed
    assert printed.count("  remedy ") == 1  # its consequences have none of their own
    assert "\x1b" not in printed
    assert main(["audit", f"{file}:healthy"]) == 0


def test_lines_of_json_have_file_line_and_remedy(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["audit", f"{file}:make_case", "--format", "jsonl", "--steps", "6", "--ignore", "RULE001"])
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert (found["rule"], found["module"], found["code"]) == ("GRAD001", "encoder", "detached")
    assert Path(found["file"]).name == "case.py"
    assert CASE.splitlines()[found["line"] - 1].strip().startswith("def forward")
    assert found["remedy"].endswith(".")
    assert found["last_step"] == 5
    assert {each["module"] for each in found["explains"]} == {"encoder"}


def test_options_of_the_audit_win_over_those_of_the_case(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = ["--expect-frozen", "decoder", "--watch", "decoder", "--select", "FROZEN001"]
    assert main(["audit", f"{file}:healthy", *frozen]) == 1
    assert "FROZEN001" in capsys.readouterr().out
    assert main(["audit", f"{file}:tuple_of_terms", "--terms", "task,size"]) == 0
    assert "task" in capsys.readouterr().out
    assert main(["audit", f"{file}:tuple_of_terms", "--terms", "task"]) == 2
    assert "tuple of 2" in capsys.readouterr().err


def test_a_report_and_a_baseline_are_files(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, known = file.with_name("report.html"), file.with_name("known.json")
    words = [
        "audit",
        f"{file}:make_case",
        "--format",
        "html",
        "--out",
        str(out),
        "--write-baseline",
        str(known),
    ]
    assert main(words) == 1
    assert capsys.readouterr().out == f"audit: {out}\n"
    assert out.read_text().startswith("<!doctype html>")
    assert main(["audit", f"{file}:make_case", "--baseline", str(known)]) == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["{file}:nothing"], "'nothing'"),
        (["{file}:"], "hf:NAME"),
        (["{file}"], "{file}:FUNCTION"),
        (["{file}:make_case", "--", "--epochs", "3"], "{file}:make_case"),
        (["{file}:make_case", "--steps", "0"], "at least 1"),
        (["{file}:make_case", "--expect-partial", "encodr"], "encoder"),
        (["{file}:make_case", "--baseline", "{file}.no"], "No such file"),
        (["{file}:make_case", "--rule", "{file}:Net"], "diagnostics.Rule"),
        (["{file}:fails", "--out", "."], "Is a directory"),  # before the case runs
        (["{file}:fails", "--write-baseline", "{file}/known.json"], "Not a directory"),
        (["{file}:fails"], "no_such_name"),
    ],
)
def test_bad_input_gives_2(
    file: Path, words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", *(word.format(file=file) for word in words)]) == 2
    error = capsys.readouterr().err
    assert text.format(file=file) in error
    assert "diagnostics/" not in error


SCRIPT = """
import sys, torch
from case import Net
torch.manual_seed(0)
net = Net(cut=sys.argv[1] == "--cut")
optimizer = torch.optim.SGD(net.parameters(), 0.1)
for step in range(int(sys.argv[2])):
    optimizer.zero_grad()
    net(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
    print("step", step)
assert len(sys.argv) == 3, "the last line"
"""


def test_a_script_is_run_with_the_arguments_after_two_hyphens(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = file.with_name("script.py")
    script.write_text(SCRIPT)
    words = ["audit", str(script), "--format", "jsonl", "--ignore", "RULE001"]
    assert main([*words, "--steps", "7", "--", "--cut", "90"]) == 1
    printed = capsys.readouterr()
    (line,) = printed.out.splitlines()  # what the script prints is elsewhere
    assert (json.loads(line)["code"], json.loads(line)["last_step"]) == ("detached", 6)
    assert "step 6\n" in printed.err
    assert "step 7\n" not in printed.err
    assert str(script) in printed.err.splitlines()[-1]  # that it was stopped
    assert main([*words, "--all", "--", "--whole", "9"]) == 0
    assert "step 8\n" in capsys.readouterr().err


def test_a_script_that_raises_gives_2_with_its_findings_and_its_lines(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = file.with_name("script.py")
    script.write_text(SCRIPT)
    assert main(["audit", str(script), "--", "--cut", "9", "more"]) == 2
    printed = capsys.readouterr()
    assert "GRAD001" in printed.out
    assert printed.err.endswith("AssertionError: the last line\n")
    assert "diagnostics/" not in printed.err


def test_the_page_for_agents_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agents"]) == 0
    assert "--format jsonl" in capsys.readouterr().out

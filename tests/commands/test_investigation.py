"""`etrm investigate` and `etrm report` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from etrm.commands import investigation
from etrm.investigation.experiments.frozen_decoder import FrozenReason
from etrm.investigation.runs import launchers
from tests.command_line import etrm
from tests.investigation.conftest import equal  # noqa: F401 - a fixture
from tests.investigation.planted import inline


@pytest.mark.processes
@pytest.mark.usefixtures("equal")
def test_investigate_writes_a_report_and_fails_on_request(tmp_path: Path) -> None:
    words = [
        "investigate",
        "--preset",
        "smoke",
        "--seeds",
        "1",
        "--inject",
        "divide-by-all",
        "--hypotheses",
        "H6",
    ]
    words += ["--no-experiments", "--pretrain-steps", "4", "--out", str(tmp_path / "out")]
    done = etrm(*words, "--fail-on", "validated", cache=tmp_path / "cache")
    assert done.code == 1, done.err
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["root_cause"] == "H6"
    assert result["hypotheses"]["H6"]["verdict"] == "VALIDATED"
    assert "H6" in done.out
    index = (tmp_path / "out/index.md").read_bytes()
    assert etrm("report", str(tmp_path / "out")).code == 0
    assert (tmp_path / "out/index.md").read_bytes() == index
    assert "report.html" in done.out
    assert (tmp_path / "out/report.html").is_file()


@pytest.mark.parametrize(("reason", "code"), [(FrozenReason.NOTHING_TRAINED, 3), (FrozenReason.STUCK, 0)])
def test_a_frozen_decoder_of_which_no_run_finished_is_exit_3(
    monkeypatch: pytest.MonkeyPatch, reason: FrozenReason, code: int
) -> None:
    result = SimpleNamespace(experiments=[SimpleNamespace(codes=(reason,))])
    monkeypatch.setattr(investigation, "run_investigation", lambda *arguments, **options: result)
    assert etrm("frozen-decoder", "--preset", "smoke").code == code


@pytest.mark.slow
def test_a_subject_that_cannot_be_judged_is_exit_3_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers, "processes", lambda jobs: inline().open(tmp_path))
    words = [
        "investigate",
        "--preset",
        "smoke",
        "--seeds",
        "1",
        "--set",
        "train.lr=1e30",
        "--hypotheses",
        "H2",
    ]
    words += ["--no-experiments", "--pretrain-steps", "4", "--out", str(tmp_path / "out")]
    done = etrm(*words, cache=tmp_path / "cache")
    assert done.code == 3, done.out + done.err
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["root_cause"] is None
    assert result["hypotheses"]["H2"]["verdict"] == "ERROR"
    assert result["hypotheses"]["H2"]["codes"] == ["any.runs-failed"]
    assert result["cause_code"] == "cause.open-behind-an-error"

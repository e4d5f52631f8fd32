from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import main, run_case
from benchmarks.gpu.cases import CASES


def test_a_case_runs_in_a_process_of_its_own() -> None:
    record = run_case("peak", 300, "cpu")
    assert record["case"] == "peak"
    assert set(record["found"]) == {"bfloat16", "tf32", "float32", "copy"}


def test_a_case_that_takes_too_long_costs_only_itself() -> None:
    record = run_case("peak", 0.01, "cpu")
    assert "found" not in record
    assert record["failed"].startswith("stopped after 0.01")


def test_ctrl_c_ends_the_process_of_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in a session of its own, which Ctrl-C does not reach."""
    started: list[subprocess.Popen[str]] = []

    def interrupt(process: subprocess.Popen[str], timeout: float | None = None) -> None:
        started.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_case("peak", 300, "cpu")
    assert started[0].wait(10) == -signal.SIGKILL


def test_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_no_case_begins_when_the_time_is_over(tmp_path: Path) -> None:
    main(
        [
            "--device",
            "cpu",
            "--seconds",
            "0",
            "--only",
            "peak",
            "--only",
            "plain",
            "--out",
            str(tmp_path / "lines"),
        ]
    )
    found = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert [(line["case"], line["failed"]) for line in found] == [
        ("peak", "the time was over"),
        ("plain", "the time was over"),
    ]

"""docs/extending.md: every block and every command line works unchanged, from outside the repository."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etrm.config import load, named_code
from etrm.config.code_names import SETTINGS
from etrm.training.scoring.predictor import load_model
from tests.extending.conftest import Done, Etrm, commands, python_blocks

ROOT = Path(__file__).parents[2]


def record(run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path("runs") / run / "run.json").read_text("utf-8"))
    return found


def code_of(run: str) -> list[str]:
    return [Path(name).name for name in record(run)["code"]]


def _encoder(done: Done) -> None:
    assert code_of("mine") == ["my_encoder.py:MyEncoder"]
    assert type(load_model(Path("runs/mine"), "raw")[0].encoder).__name__ == "MyEncoder"


def _evaluated(done: Done) -> None:
    assert "this run" in done.out


def _variant(done: Done) -> None:
    assert code_of("normed") == ["my_variant.py:NormedContext"]
    model, *_ = load_model(Path("runs/normed"), "raw")
    assert type(model).__name__ == "NormedContext"


def _fault(done: Done) -> None:
    assert code_of("small-loss") == ["my_fault.py:SMALL_LOSS"]


def _checked(done: Done) -> None:
    assert "my_tasks.py:recoloured training" in done.out


def _tasks(done: Done) -> None:
    assert code_of("recoloured") == ["my_tasks.py:recoloured"]
    assert record("recoloured")["tasks"] == 6


def _ruled(done: Done) -> None:
    assert code_of("loud") == ["my_rule.py:LOUD"]
    found = json.loads(Path("runs/loud/findings.json").read_text("utf-8"))
    assert {"LOUD001"} <= {finding["rule"] for finding in found}


def _probed(done: Done) -> None:
    assert "SIZE001" in done.out


def _hypothesis(done: Done) -> None:
    result = json.loads(Path("runs/rate/result.json").read_text("utf-8"))
    assert (result["root_cause"], result["hypotheses"]["R1"]["verdict"]) == ("R1", "VALIDATED")
    assert list(result["reproduce"]["code"]) == ["hypothesis R1"]
    assert "Raise train.lr" in done.out


def _experiment(done: Done) -> None:
    assert re.search(r"\| SLOWER +\| half the learning rate +\| 1 of 1 done +\|", done.out)


EXPECTED: dict[str, tuple[int, Callable[[Done], None]]] = {
    "etrm train --preset smoke --set model.encoder": (0, _encoder),
    "etrm evaluate": (0, _evaluated),
    "etrm train --preset smoke --set model.variant": (0, _variant),
    "etrm train --preset smoke --inject": (0, _fault),
    "etrm data check": (0, _checked),
    "etrm train --preset smoke --set data.source": (0, _tasks),
    "etrm train --preset smoke --set 'monitor": (0, _ruled),
    "etrm audit": (1, _probed),  # findings give 1
    "etrm investigate --preset smoke --set train.lr": (0, _hypothesis),
    "etrm experiment run": (0, _experiment),
}
"""The beginning of a line, its exit code, and what is seen then."""
IN_ANOTHER_TEST = "etrm investigate --preset smoke --set model.encoder.kind"
"""The line that test_investigation.py runs."""


def lines_with_start() -> list[tuple[str, str]]:
    """The beginning that EXPECTED has of each line, and the line; an unknown line is its own beginning."""
    lines = [line for line in commands() if not line.startswith(IN_ANOTHER_TEST)]
    return [(next((start for start in EXPECTED if line.startswith(start)), line), line) for line in lines]


def test_every_command_line_of_the_page_is_known() -> None:
    assert [start for start, _ in lines_with_start()] == list(EXPECTED)


@pytest.mark.slow
def test_every_command_line_of_the_page_works(folder: Path, etrm: Etrm) -> None:
    for start, line in lines_with_start():
        code, check = EXPECTED[start]
        done = etrm(*shlex.split(line)[1:])
        assert done.code == code, (line, done)
        check(done)


def test_the_page_has_a_file_for_every_setting_that_names_code() -> None:
    text = "\n".join(commands())
    for setting in set(SETTINGS) - {"faults"}:  # by --inject
        assert f"{setting}=" in text
    assert all(name in text or name == "my_case.py" for name in python_blocks())


@pytest.mark.slow
def test_a_run_is_evaluated_by_a_process_that_starts_elsewhere(
    folder: Path, etrm: Etrm, tmp_path: Path
) -> None:
    line = "train --preset smoke --set train.steps=2 --set train.warmup_steps=0 --out runs/mine "
    assert etrm(*line.split(), "--set", "model.encoder.kind=my_encoder.py:MyEncoder").code == 0
    command = [sys.executable, str(ROOT / "cli.py"), "evaluate", str(folder / "runs" / "mine")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_path_is_kept_absolute(folder: Path) -> None:
    config = load("smoke", overrides=("model.encoder.kind=my_encoder.py:MyEncoder",))
    assert named_code(config.model_dump()) == [f"{folder}/my_encoder.py:MyEncoder"]


@pytest.mark.processes
def test_worker_processes_load_the_code(folder: Path, etrm: Etrm) -> None:
    words = "train --preset smoke --set train.steps=2 --set train.warmup_steps=0 --set data.workers=1 --out runs/ahead"
    assert etrm(*words.split(), "--inject", "my_fault.py:SMALL_LOSS").code == 0

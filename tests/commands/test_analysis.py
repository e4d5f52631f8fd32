"""`etrm analyse` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.command_line import etrm
from tests.errors import assert_holds


def test_a_run_is_analysed_on_a_page(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ["train.steps=2", "train.warmup_steps=0", "model.halt.max_steps=2", "monitor.enabled=false"]
    words = [word for setting in settings for word in ("--set", setting)]
    assert etrm("train", "--preset", "smoke", *words, "--out", run).code == 0
    done = etrm("analyse", run, "--set", "evaluate.max_tasks=2")
    assert done.code == 0, done.err
    assert_holds(done.out, "read at halting", "swapped", "of 2", "report.html")
    folder = run / "analysis"
    numbers = json.loads((folder / "analysis.json").read_text())
    assert [step["step"] for step in numbers["steps"]] == [1, 2]
    assert all((folder / "figures" / f"{name}.png").exists() for name in ("steps", "change", "votes"))
    assert "ACT steps" in (folder / "index.md").read_text()
    assert (folder / "report.html").read_text().count("data:image/png") == 3
    assert etrm("analyse", tmp_path / "nothing").code == 2

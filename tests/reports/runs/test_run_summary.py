"""The lines that end a run, from folders written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etrm.checkpoints.run_folder import read_config
from etrm.evaluation.learning_stage import LearningStage
from reports.runs import run_summary
from reports.runs.listing import read_entry
from reports.runs.run_summary import summarise_run


def finding(rule: str, severity: str) -> dict[str, Any]:
    return {"rule": rule, "severity": severity, "module": "encoder", "message": "planted"}


@pytest.mark.parametrize(
    ("found", "rules", "command"),
    [
        ([], (), "evaluate"),
        ([finding("SPIKE001", "note")], (), "evaluate"),
        ([finding("WASTE001", "warning"), finding("WASTE001", "warning")], ("WASTE001",), "evaluate"),
        (
            [finding("WASTE001", "warning"), finding("COV001", "critical")],
            ("COV001", "WASTE001"),
            "investigate",
        ),
    ],
)
def test_findings_above_a_note_are_named_and_critical_ones_choose_the_next_command(
    write_run: Callable[..., Path], found: list[dict[str, Any]], rules: tuple[str, ...], command: str
) -> None:
    folder = write_run(logged=30)
    (folder / "findings.json").write_text(json.dumps(found))
    reached, findings, reference, stage, following = summarise_run(folder, 12345)
    assert "12,345 parameters" in reached
    # The loss falls from 2 by .01 a step: the mean of the last tenth, steps 28 to 30, is 1.71, and it is the best one.
    assert "loss 1.710 (best 1.710)" in reached
    assert findings.removeprefix("findings: ") == (", ".join(rules) or "none above a note")
    assert reference == "reference: no step was compared"
    assert stage == f"stage: {LearningStage.TOO_SHORT.words}"
    assert following == f"next: etrm {command} {folder}"
    assert read_entry(folder).findings == rules


def test_solved_tasks_are_counted_of_those_that_were_evaluated(
    write_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were counted of the largest number that the settings allow, so that the intervals were too narrow."""
    monkeypatch.setattr(run_summary, "load_held_out_tasks", lambda config: ("a", "b", "c"))
    monkeypatch.setattr(run_summary, "describe_course", lambda table, rows, evaluated: str(evaluated))
    folder = write_run(logged=30, evaluate={"max_tasks": 1000})
    assert "stage: None" in summarise_run(folder, 1)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[-1] = json.dumps(json.loads(lines[-1]) | {"held_out.solved": 0.5})
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    assert "stage: 3" in summarise_run(folder, 1)


def test_a_step_that_departs_from_the_reference_is_named(write_run: Callable[..., Path]) -> None:
    folder = write_run(logged=30)
    departure = {
        "stage": "gradient",
        "tensor": "encoder.x",
        "size": 1.0,
        "limit": 0.1,
        "where": "",
        "step": 7,
        "bucket": 0,
    }
    steps = [
        {"step": 1, "bucket": 0, "count": 0, "absent": "", "departures": []},
        {"step": 7, "bucket": 0, "count": 1, "absent": "", "departures": [departure]},
    ]
    (folder / "reference.jsonl").write_text("".join(f"{json.dumps(step)}\n" for step in steps))
    *_, reference, _, following = summarise_run(folder, 1)
    assert reference == "reference: step 7 departs from the reference at the stage gradient: encoder.x"
    assert following == f"next: etrm investigate {folder}"


def test_the_speed_of_the_loader_is_reported_if_every_step_recorded_it(
    write_run: Callable[..., Path],
) -> None:
    folder = write_run(logged=10)
    assert not [line for line in summarise_run(folder, 1) if line.startswith("speed")]
    steps = [{"step": step, "seconds": 0.5, "loading_seconds": 0.01} for step in range(1, 11)]
    (folder / "timing.jsonl").write_text("".join(f"{json.dumps(step)}\n" for step in steps))
    rows = read_config(folder).train.batch_size
    (speed,) = (line for line in summarise_run(folder, 1) if line.startswith("speed"))
    assert speed == f"speed: {2 * rows} rows per second; the loader {100 * rows:,} (2.0% of the time)"
    steps = [step | {"padded_share": 0.1 * (step["step"] % 2)} for step in steps]
    (folder / "timing.jsonl").write_text("".join(f"{json.dumps(step)}\n" for step in steps))
    (speed,) = (line for line in summarise_run(folder, 1) if line.startswith("speed"))
    assert speed.endswith("(2.0% of the time); 5.0% of all positions are padding")

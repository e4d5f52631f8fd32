from __future__ import annotations

import json
from pathlib import Path

from etrm.config import load
from etrm.evaluation import EvaluationReport, PassK
from etrm.evaluation.learning_stage import Generalisation, LearningStage
from reports.terminal.course_lines import course_lines


def test_the_stage_and_what_unseen_tasks_show_are_printed(tmp_path: Path) -> None:
    steps = [{"step": step, "lm_loss": 0.01, "exact_all": 1.0} for step in range(1, 201)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(step)}\n" for step in steps))
    report = EvaluationReport({1: PassK(1, 0.0, 0, 40, 0.0, 1.0)}, 0.0, 0.0, 40, 0, 0, (), (), {})
    assert course_lines(tmp_path, load("smoke"), report) == [
        f"stage of training: {LearningStage.CONVERGED.words}",
        f"trained and unseen tasks: {Generalisation.MEMORISING.words}",
    ]

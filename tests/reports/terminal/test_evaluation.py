"""What `etrm evaluate` prints: every share with n and interval, every fact of a fit, the stage of the run."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from etrm.config import load
from etrm.evaluation import EvaluationReport, PassK
from etrm.evaluation.learning_stage import Generalisation, LearningStage
from etrm.evaluation.misleading import Misleading, Share
from etrm.training.scoring.fitted_scores import Fit, FittedScores
from reports.terminal.evaluation import course_lines, fitted_lines, misleading_table

REPORT = EvaluationReport({}, 0.0, 0.0, 0, 0, 0, (), (), {})


def test_a_line_has_the_facts_that_there_are() -> None:
    scores = {
        Fit.CONTEXT: FittedScores(REPORT, 0.25, fitted=0.5, held_out=0.125, steps=50),
        Fit.PART: FittedScores(REPORT, 1.0, unadapted=2),
    }
    assert fitted_lines(scores) == [
        "searched: 0.25 s per task, 50 gradient steps per search, 50.0% of the fitted demonstrations answered, "
        "12.5% of those left out",
        "adapted: 1.00 s per task, 2 tasks with too few demonstrations to adapt to",
    ]


def test_the_stage_and_what_unseen_tasks_show_are_printed(tmp_path: Path) -> None:
    steps = [{"step": step, "lm_loss": 0.01, "exact_all": 1.0} for step in range(1, 201)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(step)}\n" for step in steps))
    report = EvaluationReport({1: PassK(1, 0.0, 0, 40, 0.0, 1.0)}, 0.0, 0.0, 40, 0, 0, (), (), {})
    assert course_lines(tmp_path, load("smoke"), report) == [
        f"stage of training: {LearningStage.CONVERGED.words}",
        f"trained and unseen tasks: {Generalisation.MEMORISING.words}",
    ]


def test_every_score_is_shown_with_n_and_interval() -> None:
    run = {kind: Share.counted(place, 10 + place) for place, kind in enumerate(Misleading)}
    copying = {kind: Share.counted(0, share.of) for kind, share in run.items()}
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(misleading_table({"this run": run, "copy input": copying}))
    lines = console.export_text().splitlines()
    assert any("this run" in line and "copy input" in line for line in lines)
    for kind, share in run.items():
        (line,) = [line for line in lines if kind.words in line]
        assert f" {share.of} " in line
        assert f"{share.value:.1%} [{100 * share.low:.1f}, {100 * share.high:.1f}]" in line
        assert line.count("[") == 2

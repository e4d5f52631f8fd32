from __future__ import annotations

from etrm.evaluation import EvaluationReport
from etrm.training.scoring.fitted_scores import Fit, FittedScores
from reports.terminal.fitted_lines import fitted_lines

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

from __future__ import annotations

import pandas as pd

from etrm.evaluation import EvaluationReport, PassK
from etrm.evaluation.learning_stage import Generalisation, LearningStage, SolvedCount
from reports.runs.learning_course import (
    compare_with_unseen,
    count_trained,
    count_unseen,
    describe_course,
    read_stage,
)


def table(exact: float, steps: int = 100) -> pd.DataFrame:
    return pd.DataFrame({"lm_loss": [0.4] * steps, "exact_all": [exact] * (steps - 1) + [None]})


def report(solved: int) -> EvaluationReport:
    return EvaluationReport(
        {1: PassK(1, solved / 200, solved, 200, 0.0, 1.0)}, 0.0, 0.0, 200, 0, 0, (), (), {}
    )


def test_the_stage_is_read_from_the_logged_columns() -> None:
    assert read_stage(table(0.1)) is LearningStage.PLATEAU
    assert read_stage(table(0.99)) is LearningStage.CONVERGED
    assert read_stage(pd.DataFrame({"step": [1.0]})) is LearningStage.TOO_SHORT


def test_the_last_training_answers_are_counted() -> None:
    assert count_trained(table(0.5), 32) == SolvedCount(240, 480)
    assert count_trained(pd.DataFrame({"step": [1.0]}), 32) is None


def test_the_last_evaluation_in_training_tells_memory_from_inference() -> None:
    evaluated = table(0.99)
    evaluated["held_out.solved"] = [None] * 50 + [0.5] + [None] * 48 + [0.05]
    assert count_unseen(evaluated, 200) == SolvedCount(10, 200)
    assert count_unseen(evaluated, None) is None
    assert count_unseen(table(0.99), 200) is None
    words = describe_course(evaluated, 32, 200)
    assert words == f"{LearningStage.CONVERGED.words}; {Generalisation.MEMORISING.words}"
    assert describe_course(table(0.99), 32, 200) == LearningStage.CONVERGED.words


def test_unseen_tasks_are_compared_with_them() -> None:
    assert compare_with_unseen(table(0.99), 32, report(198)) is Generalisation.INFERRING
    assert compare_with_unseen(table(0.99), 32, report(10)) is Generalisation.MEMORISING
    assert compare_with_unseen(pd.DataFrame({"step": [1.0]}), 32, report(10)) is None

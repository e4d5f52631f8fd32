"""Where a run stands in learning, from its metrics and from an evaluation of unseen tasks."""

from __future__ import annotations

import pandas as pd

from etrm.evaluation import EvaluationReport
from etrm.evaluation.learning_stage import (
    Generalisation,
    LearningStage,
    SolvedCount,
    classify_stage,
    compare_rules,
)

ANSWERS = 500
"""Training answers that are counted, the last ones: the interval is then at most 9 points wide."""


def read_stage(table: pd.DataFrame) -> LearningStage:
    """Classify the logged curve of a run.

    Args:
        table: the metrics, one row per step, see :func:`etrm.checkpoints.run_table.read_metrics_table`.
    """
    if not {"lm_loss", "exact_all"} <= set(table.columns):
        return LearningStage.TOO_SHORT
    known = table[["lm_loss", "exact_all"]].dropna()
    return classify_stage(known["lm_loss"].tolist(), known["exact_all"].tolist())


def count_trained(table: pd.DataFrame, batch_size: int) -> SolvedCount | None:
    """Count exact answers to the training queries of the last steps; None if none are logged.

    With more ACT steps than one, the rows of a step are at different steps: the share is a lower one.
    """
    if "exact_all" not in table.columns:
        return None
    last = table["exact_all"].dropna().tail(max(1, ANSWERS // batch_size))
    return SolvedCount(round(last.sum() * batch_size), len(last) * batch_size) if len(last) else None


def count_unseen(table: pd.DataFrame, tasks: int | None) -> SolvedCount | None:
    """Count the held-out tasks that were solved when the run was last evaluated in training; None if it was not.

    Args:
        table: the metrics, with ``held_out.solved`` at the steps of evaluations.
        tasks: the number of held-out tasks, None if it is not known.
    """
    if tasks is None or "held_out.solved" not in table.columns:
        return None
    shares = table["held_out.solved"].dropna()
    return SolvedCount(round(shares.iloc[-1] * tasks), tasks) if len(shares) else None


def describe_course(table: pd.DataFrame, batch_size: int, held_out: int | None) -> str:
    """Describe the stage, and, if the run was evaluated in training, whether it memorises or infers."""
    trained, unseen = count_trained(table, batch_size), count_unseen(table, held_out)
    words = [read_stage(table).words]
    if trained is not None and unseen is not None:
        words.append(compare_rules(trained, unseen).words)
    return "; ".join(words)


def compare_with_unseen(
    table: pd.DataFrame, batch_size: int, unseen: EvaluationReport
) -> Generalisation | None:
    """Compare the last training answers with those to unseen tasks; None without training answers."""
    trained, first = count_trained(table, batch_size), unseen.pass_at[1]
    return None if trained is None else compare_rules(trained, SolvedCount(first.solved, first.asked))

"""Evaluation: votes over augmentations, pass@k, baselines and intervals."""

from etrm.evaluation.baselines import BASELINES, evaluate_baselines
from etrm.evaluation.passk import (
    Candidates,
    EvaluationReport,
    PassK,
    QueryResult,
    check_outputs,
    evaluate,
    predict,
    rank_candidates,
)
from etrm.evaluation.statistics import (
    Decision,
    PairedInterval,
    binomial_interval,
    decide,
    holm,
    paired_t_interval,
)
from etrm.evaluation.submission import Submitted, write_submission
from etrm.evaluation.voting import Answer, Candidate, Prediction, Predictor

__all__ = [
    "BASELINES",
    "Answer",
    "Candidate",
    "Candidates",
    "Decision",
    "EvaluationReport",
    "PairedInterval",
    "PassK",
    "Prediction",
    "Predictor",
    "QueryResult",
    "Submitted",
    "binomial_interval",
    "check_outputs",
    "decide",
    "evaluate",
    "evaluate_baselines",
    "holm",
    "paired_t_interval",
    "predict",
    "rank_candidates",
    "write_submission",
]

"""Held-out scores of known reports, and their order: a short run solves no task, and one score hides many mistakes."""

from __future__ import annotations

from collections.abc import Iterator

from etrm.evaluation import EvaluationReport
from etrm.evaluation.passk import PassK
from etrm.reference.departure import Departure, PipelineStage
from etrm.training.scoring.held_out_curve import SOLVED, TOKENS, HeldOutScore

RISING = (0.0, 0.9), (0.5, 0.1), (0.5, 0.2)
"""Shares of solved tasks and of right tokens, from the worst to the best."""
REPORT = EvaluationReport(
    # One of two tasks is solved, and of the other one half of the queries.
    pass_at={1: PassK(1, score=0.75, solved=1, asked=2, low=0.0, high=1.0)},
    token_accuracy=0.3,
    exact_accuracy=0.2,
    samples=4,
    missing=0,
    empty=0,
    unanswered=(),
    queries=(),
    candidates={},
)


def compare_known_scores() -> Iterator[Departure]:
    """Compare the score of a known report, and the order in which a run prefers known scores."""
    wanted = {SOLVED: 0.5, TOKENS: REPORT.token_accuracy}
    found = HeldOutScore.of(REPORT, seconds=1.0).metrics
    for name, value in wanted.items():
        if found[name] != value:
            yield Departure(PipelineStage.SCORE, name, abs(found[name] - value), 0.0, "of a known report")
    known = [HeldOutScore(*score, seconds=1.0, queries=1) for score in RISING]
    if sorted(known, key=lambda score: score.order) != known:
        yield Departure(PipelineStage.WEIGHTS, "best checkpoint", 1.0, 0.0, "of known scores")

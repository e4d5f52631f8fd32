"""Samples and reports as plain values for the reference, which knows none of their classes."""

from __future__ import annotations

from etrm.data import Sample
from etrm.evaluation import EvaluationReport
from etrm.reference.data.loaded_rows import LoadedRow
from etrm.reference.evaluation.evaluation_stages import CountedAnswer, CountedScores


def plain_row(sample: Sample) -> LoadedRow:
    """Return a sample as the reference compares it."""
    demos = [(demo.tokens, demo.positions) for demo in sample.demos]
    return LoadedRow(sample.tokens, sample.positions, sample.labels, demos, sample.puzzle_id, sample.serial)


def plain_report(report: EvaluationReport) -> CountedScores:
    """Return a report as the reference compares it."""
    passed = {
        f"pass@{k}.{name}": float(getattr(found, name))
        for k, found in report.pass_at.items()
        for name in ("score", "solved", "asked", "low", "high")
    }
    names = ("token_accuracy", "exact_accuracy", "samples", "missing", "empty")
    values = passed | {name: float(getattr(report, name)) for name in names}
    return CountedScores(
        values | {"unanswered": float(len(report.unanswered))},
        {(found.task_id, found.query): found.rank for found in report.queries},
        {
            (task_id, query): [CountedAnswer(one.grid, one.votes, one.halting) for one in candidates]
            for task_id, tests in report.candidates.items()
            for query, candidates in enumerate(tests)
        },
    )

"""Samples, batches and reports as plain values for the reference, which knows none of their classes."""

from __future__ import annotations

from torch import Tensor

from etrm.batch import Batch
from etrm.data import Sample
from etrm.device import to_host
from etrm.evaluation import EvaluationReport
from etrm.reference.evaluation import CountedAnswer, CountedScores
from etrm.reference.loaded_rows import LoadedRow


def plain_row(sample: Sample) -> LoadedRow:
    """Return a sample as the reference compares it."""
    demos = [(demo.tokens, demo.positions) for demo in sample.demos]
    return LoadedRow(sample.tokens, sample.positions, sample.labels, demos, sample.puzzle_id, sample.serial)


def plain_tensors(batch: Batch) -> dict[str, Tensor | None]:
    """Return the tensors of a batch on the host, by the names of :func:`etrm.reference.loaded_rows.compare_batch`."""
    demos = batch.demos
    tensors = {
        "inputs": batch.inputs,
        "positions": batch.positions,
        "labels": batch.labels,
        "valid": batch.valid,
        "puzzle_ids": batch.puzzle_ids,
        "sample_ids": batch.sample_ids,
        "demos.tokens": demos.tokens,
        "demos.positions": demos.positions,
        "demos.valid": demos.valid,
        "demos.owner": demos.owner,
    }
    return {name: None if values is None else to_host(values) for name, values in tensors.items()}


def plain_report(report: EvaluationReport) -> CountedScores:
    """Return a report as the reference compares it."""
    passed = {
        f"pass@{k}.{name}": float(getattr(found, name))
        for k, found in report.pass_at.items()
        for name in ("score", "solved", "asked")
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

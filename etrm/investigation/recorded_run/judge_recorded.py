"""Judges what a run folder recorded: one function for each source, listed in SOURCES."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from etrm.config import Config
from etrm.errors import EtrmError
from etrm.investigation.evidence.table import EvidenceRow, Metric
from etrm.investigation.recorded_run.course_comparison import compare_with_course
from etrm.investigation.recorded_run.environment import (
    DifferenceCode,
    compare_environment,
    compare_settings,
)
from etrm.investigation.recorded_run.logged_steps import judge_logged_steps
from etrm.investigation.recorded_run.recorded_curves import FIGURE, make_curves
from etrm.investigation.recorded_run.recorded_fact import RecordedFact
from etrm.investigation.recorded_run.recorded_findings import judge_findings
from etrm.investigation.recorded_run.replayed_steps import judge_replayed_steps
from etrm.investigation.recorded_run.run_under_test import RunUnderTest
from etrm.investigation.recorded_run.saved_weights import judge_saved_weights
from etrm.investigation.recorded_run.trained_context import judge_trained_context
from etrm.investigation.recorded_run.trained_score import judge_trained_score
from etrm.investigation.records import NotMeasured
from etrm.investigation.result import RecordedDifference, RecordedRun

Source = Callable[[RunUnderTest], Iterator[RecordedFact]]
"""Judges one thing that a run recorded."""
SOURCES: tuple[Source, ...] = (
    judge_findings,
    judge_logged_steps,
    judge_saved_weights,
    judge_trained_context,
    judge_trained_score,
    judge_replayed_steps,
    compare_with_course,
)
"""What is judged, in the order of a report. Another record of a run is another function here."""
UNREADABLE = Metric("run.not-judged", "not judged: {item}")


def judge_recorded_run(path: Path, subject: Config) -> tuple[RecordedRun, tuple[RecordedFact, ...]]:
    """Judge a run folder, or one up to a checkpoint.

    Args:
        path: the run folder or the checkpoint.
        subject: the config under test, which may have other settings than the run.

    Returns:
        what a result holds of the run, and the facts with the hypotheses that they are evidence for.

    Raises:
        RunFolderError: there is no run, or a file of it is damaged.
    """
    began, run = time.perf_counter(), RunUnderTest.read(path)
    differences, facts = _compare(run, subject), tuple(_judge(run))
    recorded = RecordedRun(
        folder=str(run.path),
        steps=run.metrics[-1]["step"] if run.metrics else 0,
        checkpoints=tuple(int(saved.name.rpartition("_")[2]) for saved in run.saved),
        differences=differences,
        evidence=tuple(fact.row for fact in facts),
        undecided=tuple(fact.words for fact in facts if fact.undecided),
        figures=(FIGURE,) if run.metrics else (),
        series=make_curves(run.metrics, run.config.train.seed),
        wall_s=round(time.perf_counter() - began, 1),
    )
    return recorded, facts


def _compare(run: RunUnderTest, subject: Config) -> tuple[RecordedDifference, ...]:
    try:
        return compare_environment(run, subject)
    except EtrmError as error:
        not_built = RecordedDifference(
            code=DifferenceCode.NOT_BUILT, name=error.code, before="the run was trained", now=error.brief
        )
        return (*compare_settings(run, subject), not_built)


def _judge(run: RunUnderTest, sources: Sequence[Source] = SOURCES) -> Iterator[RecordedFact]:
    """The facts of every source; one that cannot be judged gives a row with the reason."""
    for source in sources:
        try:
            yield from source(run)
        except EtrmError as error:
            yield RecordedFact(_explain(source, error))


def _explain(source: Source, error: EtrmError) -> EvidenceRow:
    item = source.__name__.removeprefix("judge_").replace("_", "-")
    absent = NotMeasured(absent=f"{error.brief} [{error.code}]")
    return UNREADABLE.row(absent, item=item, threshold="context", n="0 runs")

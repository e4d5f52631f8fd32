"""A recorded run against the registered healthy course of its preset."""

from __future__ import annotations

from collections.abc import Iterator

from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.recorded_run.context_collapse import COLLAPSED, explain_collapse
from etrm.investigation.recorded_run.healthy_course import HealthyCourse, find_course, find_nearest_preset
from etrm.investigation.recorded_run.recorded_fact import RecordedFact
from etrm.investigation.recorded_run.run_under_test import RunUnderTest
from etrm.investigation.records import NotMeasured

COURSE = Metric("run.course", "registered course of the preset: {item}", Direction.EQUAL)
SHOWN = 4
"""Settings that a note lists."""


def compare_with_course(run: RunUnderTest) -> Iterator[RecordedFact]:
    """A row for each quantity of the course, or one that says why there is none."""
    course = find_course(run.config)
    if course is None:
        yield RecordedFact(
            COURSE.row(_explain_absence(run), item="none", threshold="the band", n="0 windows")
        )
        return
    if course.made["data_hash"] != run.record.get("data_hash"):
        absent = NotMeasured(absent=f"the course of {course.preset} was registered with other tasks")
        yield RecordedFact(COURSE.row(absent, item="none", threshold="the band", n="0 windows"))
        return
    yield from _compare(run, course)


def _compare(run: RunUnderTest, course: HealthyCourse) -> Iterator[RecordedFact]:
    seeds = len(course.made["seeds"])
    for found in course.compare(run.metrics):
        left = found.step is not None
        place = f"leaves the course of {course.preset} at step {found.step}" if left else "follows the course"
        row = COURSE.row(
            found.value,
            item=found.key,
            threshold=f"{found.low:.4g} to {found.high:.4g}",
            passed=not left,
            n=f"{found.compared} windows of {course.window} steps, {seeds} seeds",
            note=f"{place}; {found.windows} windows outside; commit {str(course.made['commit'])[:8]}",
        )
        words = f"{found.key} {place}: {found.value:.4g} instead of {found.low:.4g} to {found.high:.4g} in healthy runs"
        collapsed = left and found.key == "probe.share" and found.value < min(found.low, COLLAPSED)
        yield RecordedFact(row, explain_collapse(run) if collapsed else (), words=words)


def _explain_absence(run: RunUnderTest) -> NotMeasured:
    nearest, differ = find_nearest_preset(run.config)
    if not differ:
        return NotMeasured(absent=f"no registered course for the preset {nearest}")
    shown = ", ".join(differ[:SHOWN]) + (f" and {len(differ) - SHOWN} more" if len(differ) > SHOWN else "")
    return NotMeasured(
        absent=f"this config has no registered course; the nearest preset, {nearest}, has another {shown}"
    )

"""Compares the whole run under test while it trains, to know a step that departs before the run ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from etrm.investigation.reference_comparison.reference_check import check_course
from etrm.investigation.reference_verdict import course_job, find_beginning, judge_reference
from etrm.investigation.result import ReferenceResult
from etrm.investigation.session import Investigation
from etrm.training.monitoring.step_check import REFERENCE, ComparedStep


class CourseWatch:
    """Reads which steps of the run were compared whenever progress is reported, up to the first that departs.

    Later steps cannot change what the first one says, so it can be announced at once.

    Args:
        investigation: the investigation that trains the run.
        start: the comparison of the start, which departs nowhere.
        announce: called once, with the result of the steps up to the first that departs.

    Attributes:
        steps: the compared steps up to then, those before the first that departs among them; empty before.
    """

    def __init__(
        self,
        investigation: Investigation,
        start: ReferenceResult,
        announce: Callable[[ReferenceResult], None],
    ) -> None:
        self._investigation = investigation
        self._start = start
        self._announce = announce
        self._folder = investigation.root / course_job(investigation).folder
        self._size = 0
        self.steps: tuple[ComparedStep, ...] = ()

    @contextmanager
    def follow(self) -> Iterator[None]:
        """Look whenever something inside reports its progress."""
        report = self._investigation.progress

        def look_and_report(phase: str, done: int, total: int) -> None:
            self.look()
            report(phase, done, total)

        self._investigation.progress = look_and_report
        try:
            yield
        finally:
            self._investigation.progress = report

    def look(self) -> None:
        """Read the compared steps if there are new ones, and announce the first that departs.

        Raises:
            RunFolderError: the file is damaged.
        """
        file = self._folder / REFERENCE
        size = file.stat().st_size if file.exists() else 0
        if self.steps or size == self._size:
            return
        self._size = size
        facts = check_course(self._folder)
        if facts.first is not None:
            facts = find_beginning(facts, self._investigation)
            self.steps = facts.steps
            self._announce(judge_reference(facts, self._investigation.subject, self._start, None))

"""Announces each verdict once, as soon as no later result can change it."""

from __future__ import annotations

import time
from collections.abc import Callable

from etrm.investigation.result import HypothesisResult

OnVerdict = Callable[[HypothesisResult], None]


class AnnouncedVerdicts:
    """Announces verdicts, and keeps when each was reached.

    Args:
        on_verdict: called once with each hypothesis whose verdict is final.
    """

    def __init__(self, on_verdict: OnVerdict) -> None:
        self._on_verdict = on_verdict
        self._began = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._began

    def reach(self, hypothesis: HypothesisResult) -> HypothesisResult:
        """Announce a verdict, unless it was announced before or a correction may change it.

        Returns:
            The hypothesis with the time at which its verdict was known first.
        """
        known = hypothesis.id in self._seconds
        seconds = self._seconds.setdefault(hypothesis.id, round(self.elapsed, 1))
        found = hypothesis.replace(decided_after_s=seconds)
        if not known and found.p_value is None:  # else Holm's correction over all of them may still change it
            self._on_verdict(found)
        return found

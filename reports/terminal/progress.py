"""The progress of commands: one bar in a terminal, and a few plain lines in a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from reports.markdown import count, duration, plain
from reports.terminal.console import open_console

if TYPE_CHECKING:
    from rich.console import Console

    from etrm.investigation.planned_runs import PlannedWork
    from etrm.investigation.result import HypothesisResult, ReferenceResult, Result

Clock = Callable[[], float]
LOOK_S = 1.0
"""Seconds between two looks at the folders of the planned runs."""
LINE_S = 10.0
"""Seconds between two lines of a training run in a pipe."""
BAR = 24
"""Characters of the bar of a phase: with the longest texts on both sides a line fits 80 columns."""


class Phases:
    """A progress bar of the current phase, which disappears when the phase is over. A pipe gets nothing.

    Args:
        unit: the unit of the numbers next to the bar.
        names: the words for phases that have other words than their key.
    """

    def __init__(self, unit: str = "steps", names: Mapping[str, str] | None = None) -> None:
        self.console = open_console(stderr=True)
        self._unit = unit
        self._names = names or {}
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(BAR),
            TextColumn("{task.fields[words]}", markup=False),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self._current: tuple[str, TaskID] | None = None

    def __enter__(self) -> Phases:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._bars.stop()

    @property
    def resume(self) -> str:
        """What to do after an interruption."""
        return "the same command resumes"

    def update(self, phase: str, done: int, total: int) -> None:
        """Show how far a phase has come; an earlier phase disappears, and so does this one when it is over."""
        if self._current is not None and (self._current[0] != phase or done >= total):
            self._bars.remove_task(self._current[1])
            self._current = None
        if done >= total:
            return
        if self._current is None:
            self._current = phase, self._bars.add_task(self._names.get(phase, phase), total=total, words="")
        words = f"{done} of {total} {self._unit}".rstrip() if total > 1 else ""
        self._bars.update(self._current[1], completed=done, total=total, words=words)


class InvestigationProgress(Phases):
    """The progress of a whole investigation: the time left for all of it, the current phase, and each verdict.

    A pipe gets plain lines: the number of planned steps, departures from the reference and verdicts.

    Args:
        names: the titles of the hypotheses by id.
        expected: the hypotheses that are going to be decided, and a name for whatever follows them.
        stops: whether the investigation stops by itself at a proven cause.
        resumes: whether what is finished is kept when the investigation is interrupted.
        clock: the time in seconds.
    """

    def __init__(
        self,
        names: Mapping[str, str] | None = None,
        *,
        expected: Collection[str] = (),
        stops: bool = False,
        resumes: bool = True,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__("", names)
        self._expected = expected
        self._stops = stops
        self._resumes = resumes
        self._clock = clock
        self._planned: PlannedWork | None = None
        self._whole: TaskID | None = None
        self._looked = float("-inf")
        self._decided: dict[str, HypothesisResult] = {}
        self.cause: str | None = None
        """The hypothesis that is proven to be the root cause, if one is."""

    @property
    def resume(self) -> str:
        """What to do after an interruption: a proven cause can be reported at once."""
        report = f"; with --until-root-cause it ends with the report of {self.cause}" if self.cause else ""
        return f"{super().resume if self._resumes else 'the same command starts again'}{report}"

    def plan(self, planned: PlannedWork) -> None:
        """Take the planned runs, from which the time left is estimated; without any, none is shown."""
        state = planned.look()
        if state.done < state.total and not self.console.is_terminal:
            self._print(Text(describe_plan(state.total - state.done)))
        if state.total:
            self._planned = planned
            self._whole = self._bars.add_task("whole investigation", words="")
            self._look()

    def update(self, phase: str, done: int, total: int) -> None:
        """Show how far a phase has come, and about once a second the time left for all phases."""
        super().update(phase, done, total)
        if not self._bars.disable and self._clock() - self._looked >= LOOK_S:
            self._look()

    def decide(self, hypothesis: HypothesisResult) -> None:
        """Print a verdict, and once, when a cause is proven, how to stop."""
        from reports.terminal.summary import announcement

        self._decided[hypothesis.id] = hypothesis
        self._print(announcement(hypothesis))
        cause = self._find_cause()
        if cause is not None and self.cause is None:
            self.cause = cause
            if not self._stops and not set(self._expected) <= set(self._decided):
                self._print(Text(describe_stop(cause, resumes=self._resumes), "dim"))

    def _find_cause(self) -> str | None:
        """The proven root cause, once every hypothesis before it in the order is decided: one of them may hold too."""
        from etrm.investigation.root_cause import find_root_cause

        order = [*self._names, *(id for id in self._decided if id not in self._names)]
        found = find_root_cause({id: self._decided[id] for id in order if id in self._decided})
        if found.confidence != "proven" or found.id is None:
            return None
        before = order[: order.index(found.id)]
        return found.id if all(id in self._decided for id in before if id in self._expected) else None

    def depart(self, reference: ReferenceResult) -> None:
        """Print where the run departs from the reference if that decides no hypothesis."""
        belongs = f" It belongs to {reference.hypothesis}." if reference.hypothesis else ""
        self._print(Text.assemble(("Reference: ", "bold"), plain(reference.sentence), belongs))

    def finish(self, result: Result) -> None:
        """Print the verdicts that were not known before the end; a terminal shows them in the summary."""
        if not self.console.is_terminal:
            from etrm.investigation.records import Verdict

            for hypothesis in result.hypotheses.values():
                if hypothesis.id not in self._decided and hypothesis.verdict is not Verdict.NOT_RUN:
                    self.decide(hypothesis)

    def _look(self) -> None:
        if self._planned is None or self._whole is None or self._bars.disable:
            return
        self._looked = self._clock()
        state = self._planned.look()
        words = describe_time_left(state.seconds_left, at_most=self._stops)
        self._bars.update(self._whole, completed=state.done, total=max(1, state.total), words=words)

    def _print(self, line: Text) -> None:
        self.console.print(line, soft_wrap=not self.console.is_terminal)


def describe_time_left(seconds: float | None, *, at_most: bool = False) -> str:
    """Return the time left in words: rounded, because it is an estimate.

    Args:
        seconds: the estimated seconds; None if nothing is known yet, 0 if all planned runs have ended.
        at_most: whether the work may end earlier.
    """
    if seconds is None:
        return "estimating the time left"
    if seconds == 0:
        return "almost done"
    about = "at most about" if at_most else "about"
    if seconds < 60:
        return f"{about} {max(10, round(seconds / 10) * 10)} s left"
    minutes = round(seconds / 60)
    return f"{about} {minutes} min left" if minutes < 60 else f"{about} {seconds / 3600:.1f} h left"


def describe_plan(steps: int) -> str:
    """Return what an investigation is going to do, for a pipe, which is silent until the first verdict."""
    return f"Training {count(steps, 'step')} in short runs. Each verdict is printed when it is final."


def describe_stop(cause: str, *, resumes: bool = True) -> str:
    """Return how to stop once a cause is proven."""
    kept = ", which keeps what is finished" if resumes else ""
    return (
        f"{cause} is proven, and later verdicts depend on it. To stop here, press Ctrl-C{kept}, then repeat the "
        "command with --until-root-cause for the report."
    )


class TrainProgress:
    """The progress of training: a bar in a terminal, and a line every ten seconds in a pipe.

    Args:
        steps: the number of steps of the run.
        console: the console.
        clock: the time in seconds.
    """

    def __init__(self, steps: int, console: Console, clock: Clock = time.monotonic) -> None:
        self._steps = steps
        self._console = console
        self._clock = clock
        self._began: tuple[int, float] | None = None
        self._printed = float("-inf")
        self._bar = Progress(
            BarColumn(None),
            TextColumn("{task.description}", markup=False),
            console=console,
            disable=console.quiet or not console.is_terminal,
            expand=True,
        )
        self._task = self._bar.add_task("", total=steps)

    def __enter__(self) -> TrainProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # the terminal was closed; the run must not fail because of that
            self._bar.stop()

    def update(self, trainer: Any, metrics: dict[str, Any]) -> None:
        """Show a finished step; called after every step."""
        step, now = metrics["step"], self._clock()
        self._began = self._began or (step, now)
        line = f"step {step}/{self._steps}: {describe_metrics(metrics)}, {self._describe_left(step, now)}"
        if not self._bar.disable:
            self._bar.update(self._task, completed=step, description=line)
        elif now - self._printed >= LINE_S or step == self._steps:
            self._printed = now
            with suppress(OSError):
                self._console.print(line, soft_wrap=True)

    def _describe_left(self, step: int, now: float) -> str:
        first, began = self._began or (step, now)
        if step >= self._steps:
            return f"{duration(now - began)} in this process"
        if step == first:
            return describe_time_left(None)
        return describe_time_left((now - began) / (step - first) * (self._steps - step))


def describe_metrics(metrics: Mapping[str, Any]) -> str:
    """Return the loss, the accuracy and the coverage of a step in words."""
    shown = [("loss", metrics["loss"]), ("accuracy", metrics["accuracy_all"])]
    shown.append(("coverage", metrics.get("encoder.coverage", metrics.get("core.coverage"))))
    return ", ".join(f"{name} {value:.3g}" for name, value in shown if value is not None)

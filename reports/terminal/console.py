"""The terminal that commands print to, and the progress of long work; silent in pipes."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def open_console(stderr: bool = False, pipe_width: int = 120, quiet: bool = False) -> Console:
    """Where a command prints: a table keeps its columns in a pipe; ``stderr`` for what is no result.

    A ``quiet`` one prints nothing.
    """
    from rich.console import Console

    console = Console(stderr=stderr, quiet=quiet)
    if not console.is_terminal:  # tables in pipes and logs keep their columns
        console = Console(stderr=stderr, quiet=quiet, width=pipe_width)
    return console


class Phases:
    """One progress bar per phase; silent where standard error is no terminal."""

    def __init__(self, unit: str = "steps") -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = open_console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._known: dict[str, Any] = {}

    def __enter__(self) -> Phases:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._bars.stop()

    def update(self, phase: str, done: int, total: int) -> None:
        if phase not in self._known:
            self._known[phase] = self._bars.add_task(phase, total=total)
        self._bars.update(self._known[phase], completed=done, total=total)

    def say(self, text: str) -> None:
        """A line above the bars, where there are any."""
        if not self._bars.disable:
            self._bars.console.print(text, markup=False, highlight=False)


class TrainBar:
    """Loss, accuracy, coverage and the time that is left."""

    def __init__(self, steps: int, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=console,
            disable=console.quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps)

    def __enter__(self) -> TrainBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # the terminal was closed: nothing can be shown, and the run is kept
            self._bar.stop()

    def update(self, trainer: Any, metrics: dict[str, Any]) -> None:
        """Called after every step."""
        shown = [("loss", metrics["loss"]), ("accuracy", metrics["accuracy_all"])]
        shown.append(("coverage", metrics.get("encoder.coverage", metrics.get("core.coverage"))))
        text = "  ".join(f"{name} {value:.3f}" for name, value in shown if value is not None)
        self._bar.update(self._task, completed=metrics["step"], description=text)

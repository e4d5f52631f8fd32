"""The console to which commands print, and progress bars, which are not shown in pipes."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def open_console(stderr: bool = False, pipe_width: int = 120, quiet: bool = False) -> Console:
    """Return a console for the output of a command.

    Args:
        stderr: whether to print to standard error, for output that is not a result.
        pipe_width: the width in characters if the output is not a terminal.
        quiet: whether to print nothing.
    """
    from rich.console import Console

    console = Console(stderr=stderr, quiet=quiet)
    if not console.is_terminal:  # so that tables in pipes and logs keep their columns
        console = Console(stderr=stderr, quiet=quiet, width=pipe_width)
    return console


def print_page(text: str) -> None:
    """Print a page of markdown: rendered in a terminal, and unchanged in a pipe."""
    from rich.markdown import Markdown

    console = open_console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        console.out(text.rstrip("\n"), highlight=False)


class Phases:
    """One progress bar per phase. Nothing is shown if standard error is not a terminal."""

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
        """Print a line above the progress bars."""
        if not self._bars.disable:
            self._bars.console.print(text, markup=False, highlight=False)


class TrainBar:
    """A progress bar of training with loss, accuracy, coverage and the remaining time."""

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
        with suppress(OSError):  # the terminal was closed; the run must not fail because of that
            self._bar.stop()

    def update(self, trainer: Any, metrics: dict[str, Any]) -> None:
        """Update the bar; called after every step."""
        shown = [("loss", metrics["loss"]), ("accuracy", metrics["accuracy_all"])]
        shown.append(("coverage", metrics.get("encoder.coverage", metrics.get("core.coverage"))))
        text = "  ".join(f"{name} {value:.3f}" for name, value in shown if value is not None)
        self._bar.update(self._task, completed=metrics["step"], description=text)

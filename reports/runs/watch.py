"""Show a run in the terminal while it trains. Every frame is drawn from the files in its folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from reports.markdown import duration, number
from reports.runs.followed_run import Followed
from reports.runs.history import RECENT, WINDOW, History, smooth
from reports.runs.run_state import State
from reports.runs.text_plot import bin_points, draw_text_plot
from reports.text_table import make_table

INTERVAL_S = 1.0
"""Seconds between two frames."""
BESIDE_PLOT = 61
"""The number of characters in a line of the table that do not belong to the plot."""

STYLES = {
    State.RUNNING: "bold green",
    State.FINISHED: "bold",
    State.STOPPED: "bold yellow",
    State.FAILED: "bold red",
    State.UNKNOWN: "bold magenta",
}


@dataclass(frozen=True)
class WatchedQuantity:
    """A quantity in the frame.

    Attributes:
        label: the name in words.
        key: the key in metrics.jsonl.
        limits: the limits of its plot; by default its lowest and highest values.
        height: the height of its plot, in lines.
    """

    label: str
    key: str
    limits: tuple[float, float] | None = None
    height: int = 1


SHARE = (0.0, 1.0)  # the range of a share
LEARNING = (
    WatchedQuantity("token accuracy", "accuracy_all", height=3),
    WatchedQuantity("exact answers", "exact_all"),
    WatchedQuantity("loss", "loss", height=3),
    WatchedQuantity("held-out tasks solved", "held_out.solved", SHARE, height=3),
    WatchedQuantity("  their token accuracy", "held_out.token_accuracy"),
)
HALTING = (
    WatchedQuantity("steps at halt", "steps_at_halt"),
    WatchedQuantity("samples halted per step", "halted_share", SHARE),
    WatchedQuantity("halting accuracy", "q_halt_accuracy", SHARE),
    WatchedQuantity("  of a constant guess", "q_halt_base_rate", SHARE),
)
CURRICULUM = (
    WatchedQuantity("largest side of the stage", "stage_side"),
    WatchedQuantity("batches of earlier stages", "replayed", SHARE),
)
PROBE = (
    WatchedQuantity("share that differs", "probe.share"),
    WatchedQuantity("effective rank", "probe.effective_rank"),
    WatchedQuantity("loss", "probe.loss_true"),
    WatchedQuantity("  contexts shuffled", "probe.loss_shuffled"),
    WatchedQuantity("  mean context", "probe.loss_mean"),
)


def watch(folder: Path, console: Console, *, once: bool = False) -> None:
    """Show a run until it ends; or only one frame if the console is not a terminal, or ``once`` is True.

    If the folder contains no run yet, this waits for one, unless only one frame is shown.

    Raises:
        EtrmError: the folder cannot be read, or contains no run when one frame is to be shown.
    """
    if once or not console.is_terminal:
        console.print(build_frame(Followed(folder), console.width))
        return
    waiting = Text(f"{folder}: no run yet; waiting for one to start (press Ctrl-C to quit)")
    with Live(waiting, console=console, auto_refresh=False, vertical_overflow="crop") as live:
        live.refresh()
        while not (folder / "config.json").exists():
            time.sleep(INTERVAL_S)
        run = Followed(folder)
        live.update(build_frame(run, console.width), refresh=True)
        while not run.status.ended:
            time.sleep(INTERVAL_S)
            run.update()
            live.update(build_frame(run, console.width), refresh=True)


def build_frame(run: Followed, width: int) -> RenderableType:
    """Return one frame of a run, for a terminal of ``width`` characters."""
    history, plot_width = run.history, max(10, width - BESIDE_PLOT)
    numbers = ("now", "lowest", "highest")
    table = make_table(("", *numbers, f"steps 1 to {history.step}"), right=numbers)
    for column, least in zip(table.columns, (26, 9, 9, 9, None), strict=True):
        column.no_wrap, column.min_width = True, least
    for title, rows in _sections(history):
        shown = [row for row in rows if row.key in history.table]
        if shown:
            table.add_row(Text(title, style="bold"))
        for row in shown:
            _add(table, row, history, plot_width)
    return Group(*_head(run, plot_width), Text(), table, *_foot(run))


def _sections(history: History) -> Iterator[tuple[str, Sequence[WatchedQuantity]]]:
    modules = [key.removesuffix(".coverage") for key in history.table if key.endswith(".coverage")]
    drift = [key for key in history.table if key.startswith("drift.")]
    yield "learning", LEARNING
    yield "curriculum", CURRICULUM
    yield "halting", HALTING
    yield "coverage", [WatchedQuantity(name, f"{name}.coverage", SHARE) for name in modules]
    yield "weight change per step", [WatchedQuantity(name, f"{name}.moved") for name in modules]
    yield "contexts of the probe batch", PROBE
    yield "drift", [WatchedQuantity(key.removeprefix("drift."), key) for key in drift]


def _add(table: Table, row: WatchedQuantity, history: History, plot_width: int) -> None:
    means = smooth(history.curve(row.key))
    low, high = float(means.min()), float(means.max())
    plot = draw_text_plot(bin_points(means, plot_width), *(row.limits or (low, high)), height=row.height)
    numbers = (number(value) for value in (float(means[-1]), low, high))
    table.add_row(Text(f"  {row.label}"), *numbers, Text("\n".join(plot), style="cyan"))


def _head(run: Followed, plot_width: int) -> Iterator[RenderableType]:
    config, history = run.config, run.history
    parts = [config.preset, run.model, f"seed {config.train.seed}"]
    parts += [f"with {', '.join(config.faults)}"] if config.faults else []
    yield Text.assemble((str(run.folder), "bold"), ": ", ", ".join(part for part in parts if part))
    line = [f"step {history.step} of {config.train.steps}", f"{duration(history.wall_s)} in steps"]
    if run.eta_s is not None and not run.status.ended:
        line.append(f"{duration(run.eta_s)} left")
    yield Text.assemble((str(run.status), STYLES[run.status.state]), ": ", ", ".join(line))
    if history.steps_per_s is not None and history.samples_per_s is not None:
        speed = f"{number(history.steps_per_s)} steps/s, {number(history.samples_per_s)} samples/s"
        yield Text(f"{speed}, over the last {RECENT} steps")
    yield ProgressBar(total=config.train.steps, completed=history.step, width=plot_width)


def _foot(run: Followed) -> Iterator[RenderableType]:
    yield Text(
        f"all numbers and curves are means over {WINDOW} values, or over a tenth of a short run", style="dim"
    )
    if run.history.broken:
        lines = ", ".join(map(str, run.history.broken[:5]))
        yield Text(f"metrics.jsonl has damaged lines: {lines}", style="red")
    for finding in run.findings:
        # The message of a note may list dozens of rules; its cause says what it is about.
        shown = finding.get("cause" if finding["severity"] == "note" else "message") or finding["message"]
        yield Text(f"{finding['severity']} {finding['rule']}: {shown}")

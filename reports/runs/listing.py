"""Every run below some folders as one table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from etrm.errors import ConfigError, EtrmError, RunFolderError
from reports.markdown import NOTHING, duration
from reports.runs.followed_run import Followed
from reports.runs.history import WINDOW
from reports.runs.watch import STYLES

NUMBERS = ("accuracy_all", "exact_all", "loss")


@dataclass(frozen=True)
class ListedRun:
    """One run folder.

    Attributes:
        folder: where.
        state: see :mod:`reports.runs.run_state`; ``damaged`` where the records cannot be read.
        detail: who works on it, or what is damaged.
        step: the last logged one.
        steps: that the config asks for.
        last: quantities by name, smoothed (:data:`reports.runs.history.WINDOW`).
        best: the best of the smoothed values.
        coverage: of the encoder, or of the core where there is none, smoothed.
        model: variant and encoder.
        seed: of the run.
        faults: injected.
        started: when its config was written, in local time, to the second.
        wall_s: seconds spent in steps.
    """

    folder: str
    state: str
    detail: str = ""
    step: int | None = None
    steps: int | None = None
    last: dict[str, float | None] = field(default_factory=dict)
    best: dict[str, float | None] = field(default_factory=dict)
    coverage: float | None = None
    model: str = ""
    seed: int | None = None
    faults: tuple[str, ...] = ()
    started: str = ""
    wall_s: float | None = None


SORTS = ("folder", "state", "step", *NUMBERS, "coverage", "model", "seed", "started", "wall_s")
"""What ``--sort`` may name; a quantity stands for its best value."""


def run_folders(roots: Iterable[Path]) -> Iterator[Path]:
    """Every run folder at or below some folders, in the order of their names.

    Raises:
        RunFolderError: there is no such folder.
    """
    for root in roots:
        if not root.is_dir():
            raise RunFolderError(
                "runs.absent-folder", f"there is no folder {root}", next_step="give folders that hold runs"
            )
        # The lock comes first in a run's life and the config stays longest.
        yield from sorted({path.parent for name in ("config.json", "lock") for path in root.rglob(name)})


def list_runs(roots: Iterable[Path], sort: str = "folder") -> list[ListedRun]:
    """The runs below some folders, damaged ones among them.

    Args:
        roots: folders.
        sort: one of :data:`SORTS`, ``-`` before it for the largest first; what has no such value is last.

    Raises:
        EtrmError: there is no such folder, or nothing to sort by of this name.
    """
    name = sort.removeprefix("-")
    if name not in SORTS:
        raise ConfigError("runs.unknown-sort", f"cannot sort runs by {name!r}", allowed=", ".join(SORTS))
    entries = [read_entry(folder) for folder in dict.fromkeys(run_folders(roots))]
    values = [(_sort_value(one, name), one) for one in entries]
    known = [(value, one) for value, one in values if value not in (None, "")]
    known.sort(key=lambda pair: pair[0], reverse=sort.startswith("-"))
    return [one for _, one in known] + [one for value, one in values if value in (None, "")]


def _sort_value(one: ListedRun, name: str) -> Any:
    return one.best.get(name) if name in NUMBERS else getattr(one, name)


def read_entry(folder: Path) -> ListedRun:
    """What stands in one run folder; ``damaged`` with the reason where that cannot be read."""
    try:
        run = Followed(folder)
        started = datetime.fromtimestamp((folder / "config.json").stat().st_mtime).isoformat(" ", "seconds")
    except (EtrmError, OSError) as error:
        return ListedRun(str(folder), "damaged", error.brief if isinstance(error, EtrmError) else str(error))
    history, broken = run.history, run.history.broken
    return ListedRun(
        folder=str(folder),
        state="damaged" if broken else run.status.state.value,
        detail=f"metrics.jsonl: line {broken[0]} is no record" if broken else run.status.detail,
        step=history.step,
        steps=run.config.train.steps,
        last={name: history.last(name) for name in NUMBERS},
        best={name: history.best(name) for name in NUMBERS},
        coverage=run.coverage,
        model=run.model,
        seed=run.config.train.seed,
        faults=run.config.faults,
        started=started,
        wall_s=history.wall_s,
    )


def as_json(entries: Sequence[ListedRun]) -> str:
    """The entries as a JSON array, times in seconds."""
    return json.dumps([asdict(entry) for entry in entries], indent=1, allow_nan=False)


def as_table(entries: Sequence[ListedRun]) -> Table:
    """The entries for a terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("state")
    for name in ("step", "accuracy", "exact", "loss", "coverage"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("model")
    table.add_column("seed", justify="right", no_wrap=True)
    table.add_column("faults")
    table.add_column("started", no_wrap=True)
    table.add_column("wall time", justify="right", no_wrap=True)
    for one in entries:
        table.add_row(*_cells(one))
    table.caption = f"accuracy, exact and loss of all rows: last (best) mean over {WINDOW} steps"
    table.caption_justify = "left"
    return table


def _cells(one: ListedRun) -> list[str | Text]:
    style = {state.value: style for state, style in STYLES.items()}.get(one.state, "bold red")
    state = Text.assemble((one.state, style), f" ({one.detail})" if one.detail else "")
    if not one.last:
        return [Text(one.folder), state]
    return [
        Text(one.folder),
        state,
        f"{one.step}/{one.steps}",
        *(_last_and_best(one.last[name], one.best[name]) for name in NUMBERS),
        NOTHING if one.coverage is None else f"{one.coverage:.2f}",
        one.model,
        str(one.seed),
        ", ".join(one.faults),
        one.started[5:16],
        duration(one.wall_s or 0.0),
    ]


def _last_and_best(last: float | None, best: float | None) -> str:
    return NOTHING if last is None or best is None else f"{last:.3f} ({best:.3f})"

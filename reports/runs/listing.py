"""List all runs in some folders as one table."""

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
        folder: the run folder.
        state: the state, see :mod:`reports.runs.run_state`; ``damaged`` if the records cannot be read.
        detail: the process that works on the run, or what is damaged.
        step: the last logged step.
        steps: the number of steps in the config.
        last: the last values of quantities by name, smoothed over :data:`reports.runs.history.WINDOW` steps.
        best: the best of the smoothed values, by name.
        coverage: the smoothed coverage of the encoder, or of the core if there is no encoder.
        findings: the rules of the toolkit's findings above a note, critical ones first.
        model: the variant of the model and its encoder.
        seed: the seed of the run.
        faults: the injected faults.
        started: the time at which the config was written, in local time, to the second.
        wall_s: the seconds spent in steps.
    """

    folder: str
    state: str
    detail: str = ""
    step: int | None = None
    steps: int | None = None
    last: dict[str, float | None] = field(default_factory=dict)
    best: dict[str, float | None] = field(default_factory=dict)
    coverage: float | None = None
    findings: tuple[str, ...] = ()
    model: str = ""
    seed: int | None = None
    faults: tuple[str, ...] = ()
    started: str = ""
    wall_s: float | None = None


SORTS = ("folder", "state", "step", *NUMBERS, "coverage", "model", "seed", "started", "wall_s")
"""The columns that ``--sort`` accepts. A quantity is sorted by its best value."""


def run_folders(roots: Iterable[Path]) -> Iterator[Path]:
    """Yield every run folder in some folders (or these themselves), in the order of their names.

    Raises:
        RunFolderError: a folder does not exist.
    """
    for root in roots:
        if not root.is_dir():
            raise RunFolderError(
                "runs.absent-folder",
                f"the folder {root} does not exist",
                next_step="etrm runs FOLDER, with a folder that contains runs",
            )
        # The lock is the first file of a run, and the config is the last one that is removed.
        yield from sorted({path.parent for name in ("config.json", "lock") for path in root.rglob(name)})


def list_runs(roots: Iterable[Path], sort: str = "folder") -> list[ListedRun]:
    """Return the runs in some folders, including damaged ones.

    Args:
        roots: the folders to search.
        sort: the column to sort by, one of :data:`SORTS`, with ``-`` before it for the largest first. Runs without a
            value come last.

    Raises:
        EtrmError: a folder does not exist, or the column is unknown.
    """
    name = sort.removeprefix("-")
    if name not in SORTS:
        raise ConfigError("runs.unknown-sort", f"runs cannot be sorted by {name!r}", allowed=", ".join(SORTS))
    entries = [read_entry(folder) for folder in dict.fromkeys(run_folders(roots))]
    values = [(_sort_value(one, name), one) for one in entries]
    known = [(value, one) for value, one in values if value not in (None, "")]
    known.sort(key=lambda pair: pair[0], reverse=sort.startswith("-"))
    return [one for _, one in known] + [one for value, one in values if value in (None, "")]


def _sort_value(one: ListedRun, name: str) -> Any:
    return one.best.get(name) if name in NUMBERS else getattr(one, name)


def read_entry(folder: Path) -> ListedRun:
    """Return the entry of one run folder, with the state ``damaged`` and the reason if it cannot be read."""
    try:
        run = Followed(folder)
        started = datetime.fromtimestamp((folder / "config.json").stat().st_mtime).isoformat(" ", "seconds")
    except (EtrmError, OSError) as error:
        return ListedRun(str(folder), "damaged", error.brief if isinstance(error, EtrmError) else str(error))
    history, broken = run.history, run.history.broken
    return ListedRun(
        folder=str(folder),
        state="damaged" if broken else run.status.state.value,
        detail=f"metrics.jsonl: line {broken[0]} is damaged" if broken else run.status.detail,
        step=history.step,
        steps=run.config.train.steps,
        last={name: history.last(name) for name in NUMBERS},
        best={name: history.best(name) for name in NUMBERS},
        coverage=run.coverage,
        findings=tuple(run.serious),
        model=run.model,
        seed=run.config.train.seed,
        faults=run.config.faults,
        started=started,
        wall_s=history.wall_s,
    )


def as_json(entries: Sequence[ListedRun]) -> str:
    """Return the entries as a JSON array, with times in seconds."""
    return json.dumps([asdict(entry) for entry in entries], indent=1, allow_nan=False)


def as_table(entries: Sequence[ListedRun]) -> Table:
    """Return the entries as a table for a terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("state")
    for name in ("step", "accuracy", "exact", "loss", "coverage"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("findings")
    table.add_column("model")
    table.add_column("seed", justify="right", no_wrap=True)
    table.add_column("faults")
    table.add_column("started", no_wrap=True)
    table.add_column("wall time", justify="right", no_wrap=True)
    for one in entries:
        table.add_row(*_cells(one))
    table.caption = f"accuracy, exact and loss: last (best) mean over {WINDOW} steps, over all samples"
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
        ", ".join(one.findings),
        one.model,
        str(one.seed),
        ", ".join(one.faults),
        one.started[5:16],
        duration(one.wall_s or 0.0),
    ]


def _last_and_best(last: float | None, best: float | None) -> str:
    return NOTHING if last is None or best is None else f"{last:.3f} ({best:.3f})"

"""List all runs in some folders as one table."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from etrm.errors import ConfigError, EtrmError, RunFolderError
from reports.markdown import NOTHING, count, duration
from reports.runs.followed_run import Followed
from reports.runs.history import WINDOW
from reports.runs.watch import STYLES
from reports.text_table import make_table

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


@dataclass(frozen=True)
class FoundFolders:
    """What a search for runs found.

    Attributes:
        runs: the run folders, in the order of their names.
        foreign: the folders whose ``config.json`` was written by another program.
        investigations: the folders of investigations with runs of their own, and the number of these.
    """

    runs: tuple[Path, ...]
    foreign: tuple[Path, ...]
    investigations: tuple[tuple[Path, int], ...] = ()


OUR_FILES = ("lock", "run.json", "metrics.jsonl")
"""Files with one of these names next to a ``config.json`` make the folder a run, even if the config is damaged."""
INVESTIGATION = "subject.json"
"""File by which the folder of an investigation is known."""
OUR_SECTIONS = {"model", "data", "train"}
"""Sections of every config of ours."""


def find_folders(roots: Iterable[Path]) -> FoundFolders:
    """Return the run folders in some folders, or these themselves, and the folders of other programs.

    The runs of an investigation are found in its own folder alone: one has a hundred, each of which is an arm.

    Raises:
        RunFolderError: a folder does not exist, or is a file.
    """
    found: dict[Path, bool] = {}
    arms: Counter[Path] = Counter()
    for root in roots:
        if root.exists() and not root.is_dir():
            raise RunFolderError(
                "runs.not-a-folder",
                f"{root} is not a folder",
                next_step="etrm runs FOLDER, with a folder that contains runs",
            )
        if not root.exists():
            raise RunFolderError(
                "runs.absent-folder",
                f"the folder {root} does not exist",
                next_step="etrm runs FOLDER, with a folder that contains runs",
            )
        # The lock is the first file of a run, and the config is the last one that is removed.
        for folder in sorted({path.parent for name in ("config.json", "lock") for path in root.rglob(name)}):
            if (folder / INVESTIGATION).exists() or _is_other_work(folder):
                continue
            below = folder.parents[: len(folder.relative_to(root).parts)]
            holder = next((each for each in below if each != root and (each / INVESTIGATION).exists()), None)
            if holder is None:
                found.setdefault(folder, _is_run(folder))
            else:
                arms[holder] += 1
    runs = tuple(folder for folder, ours in found.items() if ours)
    foreign = tuple(folder for folder, ours in found.items() if not ours)
    return FoundFolders(runs, foreign, tuple(sorted(arms.items())))


def _is_other_work(folder: Path) -> bool:
    """Return whether a folder without a config has a lock of other work: a benchmark, a suite of runs, or a store."""
    if any((folder / name).exists() for name in ("config.json", *OUR_FILES[1:])):
        return False
    return any(path.name != "lock" for path in folder.iterdir())


def _is_run(folder: Path) -> bool:
    """Return whether a folder with a config or a lock is a run, and not a folder of another program.

    A folder with nothing but a lock, or with an unreadable config, counts as a run, so that a damaged run is listed.
    """
    if any((folder / name).exists() for name in OUR_FILES):
        return True
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return True
    return isinstance(config, dict) and config.keys() >= OUR_SECTIONS


def describe_foreign(folders: Sequence[Path]) -> str:
    """Return one line on folders that were skipped, or an empty text if there are none."""
    if not folders:
        return ""
    named = ", ".join(map(str, folders[:3])) + (", ..." if len(folders) > 3 else "")
    return f"skipped {count(len(folders), 'folder')} whose config.json is not that of a run: {named}"


def describe_investigations(folders: Sequence[tuple[Path, int]]) -> str:
    """Return one line on the investigations whose runs are not listed, or an empty text if there are none."""
    if not folders:
        return ""
    runs = count(sum(number for _, number in folders), "run")
    command = f"etrm runs {shlex.quote(str(folders[0][0]))}"
    return f"not listed: {runs} of {count(len(folders), 'investigation')}; {command} lists those of one"


def list_runs(folders: Iterable[Path], sort: str = "folder") -> list[ListedRun]:
    """Return an entry for each run folder, also for a damaged one.

    Args:
        folders: the run folders.
        sort: the column to sort by, one of :data:`SORTS`, with ``-`` before it for the largest first. Runs without a
            value come last.

    Raises:
        ConfigError: the column is unknown.
    """
    name = sort.removeprefix("-")
    if name not in SORTS:
        raise ConfigError(
            "runs.unknown-sort",
            f"runs cannot be sorted by {name!r}",
            allowed=", ".join(SORTS),
            next_step="etrm runs --help",
        )
    entries = [read_entry(folder) for folder in folders]
    values = [(_sort_value(one, name), one) for one in entries]
    known = [(value, one) for value, one in values if value not in (None, "")]
    known.sort(key=lambda pair: pair[0], reverse=sort.startswith("-"))
    return [one for _, one in known] + [one for value, one in values if value in (None, "")]


def _sort_value(one: ListedRun, name: str) -> Any:
    return one.best.get(name) if name in NUMBERS else getattr(one, name)


def read_entry(folder: Path) -> ListedRun:
    """Return the entry of one run folder, with the state ``damaged`` and the reason if it cannot be read."""
    try:
        return _read_whole_entry(folder)
    except (EtrmError, OSError) as error:
        return ListedRun(str(folder), "damaged", error.brief if isinstance(error, EtrmError) else str(error))


def _read_whole_entry(folder: Path) -> ListedRun:
    run = Followed(folder)
    started = datetime.fromtimestamp((folder / "config.json").stat().st_mtime).isoformat(" ", "seconds")
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


def as_table(entries: Sequence[ListedRun], width: int) -> Table:
    """Return the entries as a table for a terminal of ``width`` characters.

    Where not all columns fit, the last ones become lines below the name of each run.
    """
    caption = f"accuracy, exact and loss: mean over the last {WINDOW} steps, (best); over all samples"
    columns = ("run", "state", *NUMERIC, *DETAILS) if width >= WIDE else ("run", "state", *NUMERIC)
    table = make_table(columns, right=NUMERIC, caption=caption)
    for one in entries:
        cells: list[Text | str] = [_state(one), *_numbers(one)]
        if width >= WIDE:
            table.add_row(Text(one.folder), *cells, *_details(one).values())
        else:
            words = (
                f"{name} {value}" if name in NAMED else value
                for name, value in _details(one).items()
                if value
            )
            table.add_row(
                Text.assemble(one.folder, ("".join(f"\n  {line}" for line in words), "dim")), *cells
            )
    return table


NUMERIC = ("step", "accuracy", "exact", "loss", "coverage")
DETAILS = ("model", "seed", "faults", "findings", "started", "wall time")
NAMED = ("seed", "faults", "findings", "started")
"""The details whose value needs its name where there is no head."""
WIDE = 160
"""The width from which every detail has its own column."""


def _state(one: ListedRun) -> Text:
    style = {state.value: style for state, style in STYLES.items()}.get(one.state, "bold red")
    return Text.assemble((one.state, style), f" ({one.detail})" if one.detail else "")


def _numbers(one: ListedRun) -> list[str]:
    if not one.last:
        return [NOTHING] * len(NUMERIC)
    coverage = NOTHING if one.coverage is None else f"{one.coverage:.2f}"
    numbers = (_last_and_best(one.last[name], one.best[name]) for name in NUMBERS)
    return [f"{one.step}/{one.steps}", *numbers, coverage]


def _details(one: ListedRun) -> dict[str, str]:
    if not one.last:
        return dict.fromkeys(DETAILS, "")
    values = (
        one.model,
        str(one.seed),
        ", ".join(one.faults),
        ", ".join(one.findings),
        one.started[5:16],
        duration(one.wall_s or 0.0),
    )
    return dict(zip(DETAILS, values, strict=True))


def _last_and_best(last: float | None, best: float | None) -> str:
    return NOTHING if last is None or best is None else f"{last:.3f}\n({best:.3f})"

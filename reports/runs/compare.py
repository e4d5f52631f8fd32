"""Runs side by side: what differs in their settings, whether they may be compared, how they did."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from etrm.errors import ConfigError, RunFolderError
from reports.markdown import NOTHING, duration, number
from reports.runs.followed_run import Followed
from reports.runs.groups import find_differing, group_by_setting, shorten_setting
from reports.runs.history import WINDOW

NUMBERS = {
    "accuracy_all": "token accuracy, all rows",
    "exact_all": "rows all right",
    "loss": "loss",
    "steps_at_halt": "ACT steps at halt",
    "q_halt_accuracy": "halt decision right",
    "encoder.coverage": "encoder coverage",
    "core.coverage": "core coverage",
}
"""What is compared, by key in metrics.jsonl, in words."""

RANKED = ("accuracy_all", "exact_all", "loss")
"""Those of which there is a best value."""


class DoubtCode(StrEnum):
    """Why numbers of runs may not be comparable."""

    DATA = "data_hash"
    COMMIT = "commit"
    VERSIONS = "versions"
    DEVICE = "device"
    PRECISION = "precision"
    HARDWARE = "hardware"
    THREADS = "threads"
    UNCOMMITTED = "uncommitted"
    STEPS = "steps"
    BROKEN_LINES = "broken-lines"


@dataclass(frozen=True)
class Doubt:
    """One reason why numbers may not be comparable.

    Attributes:
        code: stable name of the reason; where records differ, the key of run.json.
        words: the same with what each run has.
    """

    code: DoubtCode
    words: str


RECORDED = {
    DoubtCode.DATA: "numbers",
    DoubtCode.COMMIT: "numbers",
    DoubtCode.VERSIONS: "numbers",
    DoubtCode.DEVICE: "numbers",
    DoubtCode.PRECISION: "numbers",
    DoubtCode.HARDWARE: "speeds",
    DoubtCode.THREADS: "numbers and speeds",
}
"""What run.json should say alike, and what is in doubt where it does not."""


@dataclass(frozen=True)
class RunComparison:
    """Some runs side by side; every list has a place for each run, in their order.

    Attributes:
        runs: the runs.
        arms: equal where runs differ in nothing but the seed.
        settings: those that differ.
        doubts: why the numbers may not be comparable.
    """

    runs: list[Followed]
    arms: list[str]
    settings: dict[str, list[Any]]
    doubts: list[Doubt]


def compare(folders: Sequence[Path]) -> RunComparison:
    """Read some runs.

    Raises:
        EtrmError: there are fewer than two, or one of them cannot be read.
    """
    if len(folders) < 2:
        raise ConfigError(
            "compare.single-run", "one run alone cannot be compared", allowed="two run folders or more"
        )
    runs = [Followed(folder) for folder in folders]
    configs = [run.config for run in runs]
    return RunComparison(runs, group_by_setting(configs), find_differing(configs), list(_doubts(runs)))


def _doubts(runs: Sequence[Followed]) -> Iterator[Doubt]:
    records = [_record(run.folder) for run in runs]
    for key, doubted in RECORDED.items():
        values = [_flat(record.get(key)) for record in records]
        if any(value != values[0] for value in values):
            each = "; ".join(f"{run.folder.name}: {value}" for run, value in zip(runs, values, strict=True))
            yield Doubt(key, f"{key} differs, so {doubted} need not be comparable ({each})")
    dirty = [run.folder.name for run, record in zip(runs, records, strict=True) if record.get("dirty")]
    if dirty:
        words = "the source tree had uncommitted changes, so its commit does not say what ran"
        yield Doubt(DoubtCode.UNCOMMITTED, f"{words} ({', '.join(dirty)})")
    if len({run.history.step for run in runs}) > 1:
        each = "; ".join(f"{run.folder.name}: {run.history.step}, {run.status.state}" for run in runs)
        yield Doubt(DoubtCode.STEPS, f"the runs stand at different steps ({each})")
    for run in runs:
        if run.history.broken:
            words = f"{run.folder.name}: lines of metrics.jsonl are no record and are left out"
            yield Doubt(DoubtCode.BROKEN_LINES, words)


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "run.json").read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RunFolderError(
            "run.damaged-file", f"{folder / 'run.json'} is damaged", got=str(error)
        ) from error
    return record if isinstance(record, dict) else {}


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in sorted(value.items()))
    return shorten_setting(value)[:40]  # a whole hash says no more than its beginning


def as_tables(found: RunComparison) -> RenderableType:
    """For a terminal: what differs, the numbers with their differences from the first run, the doubts."""
    parts: list[RenderableType] = [_settings(found), Text(), _numbers(found)]
    if len(set(found.arms)) < len(found.arms):
        parts += [Text(), _groups(found)]
    parts += [Text(f"\nnot certain: {doubt.words}", style="yellow") for doubt in found.doubts]
    return Group(*parts)


def _table(found: RunComparison, first: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(first, no_wrap=True)
    for run in found.runs:
        table.add_column(str(run.folder), justify="right", overflow="fold")
    return table


def _settings(found: RunComparison) -> RenderableType:
    if not found.settings:
        return Text("the settings are the same, the seed too")
    table = _table(found, "settings that differ")
    for key, values in found.settings.items():
        table.add_row(key, *(Text(shorten_setting(value)) for value in values))
    return table


def _numbers(found: RunComparison) -> Table:
    table = _table(found, f"last mean over {WINDOW} steps")
    for key, words in NUMBERS.items():
        if any(key in run.history.table for run in found.runs):
            table.add_row(words, *_beside([run.history.last(key) for run in found.runs]))
        if key in RANKED:
            table.add_row("  best", *_beside([run.history.best(key) for run in found.runs]))
    table.add_row("steps per second, now", *_beside([run.history.steps_per_s for run in found.runs]))
    table.add_row("samples per second, now", *_beside([run.history.samples_per_s for run in found.runs]))
    table.add_row("seconds in steps", *(duration(run.history.wall_s) for run in found.runs))
    table.add_row("step", *(str(run.history.step) for run in found.runs))
    table.add_row("state", *(str(run.status) for run in found.runs))
    table.caption = "in brackets: difference from the first run; best: lowest loss, highest of the rest"
    table.caption_justify = "left"
    return table


def _groups(found: RunComparison) -> Table:
    """Means over the seeds of each arm, every seed beside it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("runs that differ only by the seed")
    table.add_column("seeds", justify="right")
    for key in RANKED:
        table.add_column(NUMBERS[key], justify="right")
    for arm in dict.fromkeys(found.arms):
        runs = [run for run, name in zip(found.runs, found.arms, strict=True) if name == arm]
        cells = (_mean([run.history.last(key) for run in runs]) for key in RANKED)
        table.add_row(Text(arm), str(len(runs)), *cells)
    table.caption = "mean (each seed) of the last means"
    table.caption_justify = "left"
    return table


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return NOTHING
    each = ", ".join(map(number, known))
    return f"{number(sum(known) / len(known))} ({each})" if len(known) > 1 else each


def _beside(values: Sequence[float | None]) -> Iterator[str]:
    first = values[0]
    for place, value in enumerate(values):
        if value is None:
            yield NOTHING
        elif place == 0 or first is None:
            yield number(value)
        else:
            yield f"{number(value)} ({'+' if value >= first else '-'}{number(abs(value - first))})"

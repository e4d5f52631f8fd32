"""Compare runs: their settings, whether they are comparable, and their results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from etrm.checkpoints.run_folder import read_record
from etrm.errors import ConfigError
from reports.markdown import NOTHING, duration, number
from reports.runs.followed_run import Followed
from reports.runs.groups import find_differing, group_by_setting, shorten_setting
from reports.runs.history import WINDOW
from reports.text_table import make_table

NUMBERS = {
    "accuracy_all": "token accuracy, all samples",
    "exact_all": "share of exact answers",
    "held_out.solved": "share of held-out tasks solved",
    "loss": "loss",
    "steps_at_halt": "ACT steps at halt",
    "q_halt_accuracy": "accuracy of the halting decision",
    "encoder.coverage": "encoder coverage",
    "core.coverage": "core coverage",
}
"""The words for the compared quantities, by their key in metrics.jsonl."""

RANKED = ("accuracy_all", "exact_all", "loss")
"""The quantities for which the best value is shown."""


class DoubtCode(StrEnum):
    """The reason why results of runs may not be comparable."""

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
    """One reason why results may not be comparable.

    Attributes:
        code: the stable name of the reason; if records differ, the key in run.json.
        words: the reason in words, with the value of each run.
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
"""The entries of run.json that should be equal, with what is in doubt if they differ."""


@dataclass(frozen=True)
class RunComparison:
    """A comparison of runs. Every list has one entry per run, in their order.

    Attributes:
        runs: the runs.
        arms: the names of the arms; equal for runs that differ only in the seed.
        settings: the settings that differ.
        doubts: the reasons why the results may not be comparable.
    """

    runs: list[Followed]
    arms: list[str]
    settings: dict[str, list[Any]]
    doubts: list[Doubt]


def compare(folders: Sequence[Path]) -> RunComparison:
    """Read and compare some runs.

    Raises:
        EtrmError: there are fewer than two runs, or one of them cannot be read.
    """
    if len(folders) < 2:
        raise ConfigError(
            "compare.single-run",
            "a single run cannot be compared",
            allowed="two or more run folders",
            next_step="etrm runs lists the runs",
        )
    runs = [Followed(folder) for folder in folders]
    configs = [run.config for run in runs]
    return RunComparison(runs, group_by_setting(configs), find_differing(configs), list(_doubts(runs)))


def _doubts(runs: Sequence[Followed]) -> Iterator[Doubt]:
    records = [read_record(run.folder) for run in runs]
    for key, doubted in RECORDED.items():
        values = [_flat(record.get(key)) for record in records]
        if any(value != values[0] for value in values):
            each = "; ".join(f"{run.folder.name}: {value}" for run, value in zip(runs, values, strict=True))
            yield Doubt(key, f"{key} differs, so {doubted} may not be comparable ({each})")
    dirty = [run.folder.name for run, record in zip(runs, records, strict=True) if record.get("dirty")]
    if dirty:
        words = "the source tree had uncommitted changes, so the commit does not identify the code that ran"
        yield Doubt(DoubtCode.UNCOMMITTED, f"{words} ({', '.join(dirty)})")
    if len({run.history.step for run in runs}) > 1:
        each = "; ".join(f"{run.folder.name}: {run.history.step}, {run.status.state}" for run in runs)
        yield Doubt(DoubtCode.STEPS, f"the runs are at different steps ({each})")
    for run in runs:
        if run.history.broken:
            words = f"{run.folder.name}: lines of metrics.jsonl are damaged and left out"
            yield Doubt(DoubtCode.BROKEN_LINES, words)


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in sorted(value.items()))
    return shorten_setting(value)[:40]  # the beginning of a hash is enough


def as_tables(found: RunComparison, width: int) -> RenderableType:
    """Return tables for a terminal: settings that differ, results with their differences from the first run, doubts.

    Args:
        found: the comparison.
        width: the width of the terminal in characters. Runs that do not fit next to the first one get tables of their
            own, each with the first run.
    """
    parts: list[RenderableType] = []
    for places in _share_out(len(found.runs), width):
        parts += [_settings(found, places), Text(), _numbers(found, places), Text()]
    if len(set(found.arms)) < len(found.arms):
        parts += [_groups(found), Text()]
    parts += [Text(f"warning: {doubt.words}", style="yellow") for doubt in found.doubts]
    return Group(*parts)


FIRST_COLUMN, RUN_COLUMN = 31, 15
"""The characters of the first column of a comparison, and of the column of a run, for which it is split."""


def _share_out(runs: int, width: int) -> list[list[int]]:
    """Return the places of the runs in each table; the first run is in all of them."""
    fitting = max(1, (width - FIRST_COLUMN) // RUN_COLUMN - 1)
    others = list(range(1, runs))
    return [[0, *others[at : at + fitting]] for at in range(0, len(others), fitting)] or [[0]]


def _table(found: RunComparison, places: Sequence[int], first: str, caption: str = "") -> Table:
    names = [str(found.runs[place].folder) for place in places]
    return make_table((first, *names), right=names, caption=caption)


def _settings(found: RunComparison, places: Sequence[int]) -> RenderableType:
    if not found.settings:
        return Text("all settings are equal, including the seed")
    table = _table(found, places, "settings that differ")
    for key, values in found.settings.items():
        table.add_row(key, *(Text(shorten_setting(values[place])) for place in places))
    return table


def _numbers(found: RunComparison, places: Sequence[int]) -> Table:
    runs = [found.runs[place] for place in places]
    caption = "in parentheses: difference from the first run; best: lowest loss, highest of the others"
    table = _table(found, places, f"mean over the last {WINDOW} steps", caption)
    for key, words in NUMBERS.items():
        if any(key in run.history.table for run in found.runs):
            table.add_row(words, *_with_differences([run.history.last(key) for run in runs]))
        if key in RANKED:
            table.add_row("  best", *_with_differences([run.history.best(key) for run in runs]))
    table.add_row("steps per second, now", *_with_differences([run.history.steps_per_s for run in runs]))
    table.add_row("samples per second, now", *_with_differences([run.history.samples_per_s for run in runs]))
    table.add_row("seconds in steps", *(duration(run.history.wall_s) for run in runs))
    table.add_row("step", *(str(run.history.step) for run in runs))
    table.add_row("state", *(str(run.status) for run in runs))
    return table


def _groups(found: RunComparison) -> Table:
    """Return a table with the mean over the seeds of each arm, and the value of each seed."""
    numbers = ("seeds", *(NUMBERS[key] for key in RANKED))
    caption = "mean over the seeds (value of each seed), each over the last steps"
    table = make_table(("runs that differ only in the seed", *numbers), right=numbers, caption=caption)
    for arm in dict.fromkeys(found.arms):
        runs = [run for run, name in zip(found.runs, found.arms, strict=True) if name == arm]
        cells = (_mean([run.history.last(key) for run in runs]) for key in RANKED)
        table.add_row(Text(arm), str(len(runs)), *cells)
    return table


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return NOTHING
    each = ", ".join(map(number, known))
    return f"{number(sum(known) / len(known))} ({each})" if len(known) > 1 else each


def _with_differences(values: Sequence[float | None]) -> Iterator[str]:
    first = values[0]
    for place, value in enumerate(values):
        if value is None:
            yield NOTHING
        elif place == 0 or first is None:
            yield number(value)
        else:
            yield f"{number(value)} ({'+' if value >= first else '-'}{number(abs(value - first))})"

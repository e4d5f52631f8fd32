"""Plot logged quantities of runs, with an optional reference line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from etrm.checkpoints.run_folder import read_config
from etrm.errors import RunFolderError
from etrm.investigation.evidence.figures import Figure, Series, smooth
from reports.plots.figures import draw
from reports.runs.compare import NUMBERS, RunComparison
from reports.runs.groups import group_by_setting
from reports.runs.history import WINDOW, History
from reports.write import check_png_name, write_file


def plot_runs(
    folders: Sequence[Path], keys: Sequence[str], out: Path, title: str, line: tuple[str, float] | None = None
) -> None:
    """Plot quantities of ``metrics.jsonl`` against the step.

    Args:
        folders: the run folders; runs that differ only in their seed share a colour.
        keys: the keys of the logged quantities.
        out: the PNG file to write.
        title: the title of the figure.
        line: the label and the value of a horizontal reference line.

    Raises:
        RunFolderError: a folder is not a run, no step logged the quantity, or ``out`` cannot be written.
        ConfigError: ``out`` has the name of a file of another format.
    """
    check_png_name(out)
    configs = [read_config(folder) for folder in folders]
    names = group_by_setting(configs)
    curves = [
        curve
        for folder, config, arm in zip(folders, configs, names, strict=True)
        for curve in _curves(folder, keys, arm, config.train.seed)
    ]
    figure = Figure(
        key="runs",
        title=title,
        x_label="optimiser step",
        y_label=", ".join(NUMBERS.get(key, key) for key in keys),
        caption="",
        lines=(line,) if line else (),
    )
    write_file(out, draw(figure, curves, sorted(set(names))))


def _curves(folder: Path, keys: Sequence[str], arm: str, seed: int) -> list[Series]:
    history = History(folder)
    history.update()
    unknown = [key for key in keys if key not in history.table]
    if unknown:
        raise RunFolderError(
            "plot.unknown-key",
            f"the run {folder} has not logged {unknown[0]!r}",
            allowed=", ".join(sorted(history.table)) or "a run with at least one step",
            next_step="etrm plot RUN --keys KEY with one of these"
            if len(history.table)
            else "etrm runs lists the runs",
        )
    curves = []
    for key in keys:
        logged = history.curve(key)
        curve = Series(
            figure="runs",
            arm=arm,
            seed=seed,
            label=NUMBERS.get(key, key),
            x=tuple(map(float, logged.index)),
            y=tuple(map(float, logged)),
        )
        curves.append(smooth(curve, WINDOW))
    return curves


def plot_comparison(found: RunComparison, folder: Path) -> list[Path]:
    """Write a PNG figure of every compared quantity that all runs logged.

    Runs that differ only in the seed share a colour: a thin line for each run, and their mean in bold.

    Returns:
        The files that were written.
    """
    files = []
    for key, words in NUMBERS.items():
        if all(key in run.history.table for run in found.runs):
            files.append(folder / f"{key.replace('.', '-')}.png")
            plot_runs([run.folder for run in found.runs], [key], files[-1], words)
    return files

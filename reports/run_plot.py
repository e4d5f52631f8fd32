"""One logged quantity of some runs as a figure, every run visible, beside a reference line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from etrm.config import Config
from etrm.errors import RunFolderError
from etrm.files import write_atomically
from etrm.investigation.protocol import smoothed
from etrm.investigation.result import Figure, Series
from etrm.training.run_folder import read_config, read_metrics
from reports.figures import draw


def plot_runs(
    folders: Sequence[Path], keys: Sequence[str], out: Path, title: str, line: tuple[str, float] | None = None
) -> None:
    """Draw quantities of ``metrics.jsonl`` over the steps of run folders.

    Args:
        folders: run folders; runs that differ in nothing but their seed share a colour.
        keys: names of logged quantities.
        out: the PNG to write.
        title: of the figure.
        line: a labelled horizontal reference line.

    Raises:
        RunFolderError: a folder is no run, or no step logged the quantity.
    """
    curves = [curve for folder in folders for curve in _curves(folder, keys)]
    arms = sorted({curve.arm for curve in curves})
    figure = Figure(
        key="runs",
        title=title,
        x_label="optimiser step",
        y_label=", ".join(keys),
        caption="",
        lines=(line,) if line else (),
    )
    write_atomically(out, draw(figure, curves, arms))


def _curves(folder: Path, keys: Sequence[str]) -> list[Series]:
    config = read_config(folder)
    metrics = read_metrics(folder)
    curves = []
    for key in keys:
        points = [(float(m["step"]), float(m[key])) for m in metrics if m.get(key) is not None]
        if not points:
            known = sorted({name for m in metrics[:1] for name in m})
            raise RunFolderError(
                f"no step of {folder} logged {key!r}",
                allowed=", ".join(known) or "a run with at least one step",
            )
        curve = Series(
            figure="runs",
            arm=_arm(config),
            seed=config.train.seed,
            label=key,
            x=tuple(x for x, _ in points),
            y=tuple(y for _, y in points),
        )
        curves.append(smoothed(curve, 25))
    return curves


def _arm(config: Config) -> str:
    name = config.preset or config.model.variant
    return " with ".join([name, ", ".join(config.faults)]) if config.faults else name

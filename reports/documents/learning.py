"""Generate the tables and figures of docs/results/learning.md: the overfit gate of the encoders, held-out scores.

    python -m reports.documents.learning gates RUN... --out FIGURE
    python -m reports.documents.learning held-out RUN... --out FIGURE

Both commands print a markdown table and write a figure from run folders. Neither trains.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import pandas as pd

from etrm.atomic_files import write_atomically
from etrm.checkpoints.run_folder import read_config, read_findings
from etrm.checkpoints.run_table import read_table
from etrm.evaluation import EvaluationReport, evaluate_baselines
from etrm.investigation.evidence.figures import Figure, Series, smooth
from etrm.training.scoring.overfit_gate import GOAL, WINDOW, compare_demonstrations, judge
from etrm.training.scoring.score_run import score_steps
from etrm.training.task_sets import load_held_out_tasks
from reports.markdown import number, table
from reports.plots.figures import draw
from reports.terminal.console import open_console

GATE_COLUMNS = (
    "encoder",
    "seed",
    "accuracy",
    "above 0.95 from step",
    "collapse",
    "passed",
    "lowest coverage",
    "median encoder gradient",
    "share, start to end",
    "effective rank at the end",
    "loss, own / mismatched demonstrations",
    "findings",
)
HELD_OUT_COLUMNS = ("answers of", "step", "solved", "evaluated", "share", "95 % interval", "token accuracy")


def gates(folders: Sequence[Path]) -> tuple[str, bytes]:
    """Return the table and the figure of overfit runs, by encoder kind and seed."""
    runs = sorted(
        ((read_config(folder), read_table(folder), folder) for folder in folders),
        key=lambda run: (run[0].model.encoder.kind, run[0].train.seed),
    )
    rows = [_gate_row(config.model.encoder.kind, config.train.seed, m, path) for config, m, path in runs]
    figure = Figure(
        key="gate",
        title="Overfit gate: ten tasks, token accuracy of all samples",
        x_label="optimiser step",
        y_label=f"mean over {WINDOW} steps",
        caption="",
        lines=(("gate", GOAL),),
    )
    curves = [
        smooth(_series("gate", c.model.encoder.kind, c.train.seed, _points(m, "accuracy_all")), WINDOW)
        for c, m, _ in runs
    ]
    return table(GATE_COLUMNS, rows), draw(figure, curves, sorted({curve.arm for curve in curves}))


def _gate_row(kind: str, seed: int, metrics: pd.DataFrame, folder: Path) -> list[str]:
    found = judge(metrics["accuracy_all"].fillna(0.0).tolist())
    warned = {f["rule"] for f in read_findings(folder) if f["severity"] != "note"}
    own, foreign = compare_demonstrations(folder)
    return [
        kind,
        str(seed),
        f"{found.accuracy:.3f}",
        str(found.reached or "never"),
        "yes" if found.collapsed else "no",
        "yes" if found.passed else "NO",
        number(min(y for _, y in _points(metrics, "encoder.coverage"))),
        number(median(y for _, y in _points(metrics, "encoder.grad_norm_pre_clip"))),
        f"{_points(metrics, 'start.share')[0][1]:.2f} to {_points(metrics, 'probe.share')[-1][1]:.2f}",
        f"{_points(metrics, 'probe.effective_rank')[-1][1]:.1f}",
        f"{own:.2f} / {foreign:.2f}",
        ", ".join(sorted(warned)) or "none",
    ]


def held_out(folders: Sequence[Path]) -> tuple[str, bytes]:
    """Return the table and the figure of the exact scores of all kept checkpoints on their held-out tasks."""
    runs = [(read_config(folder), score_steps(folder)) for folder in folders]
    config = runs[0][0]
    baselines = evaluate_baselines(load_held_out_tasks(config), config.data)
    rows = [_held_out_row(name, "", report) for name, report in baselines.items()]
    rows += [
        _held_out_row(f"seed {c.train.seed}", str(step), reports[step])
        for c, reports in runs
        for step in (min(reports), max(reports))
    ]
    figure = Figure(
        key="held-out",
        title=f"Held-out rules ({config.evaluate.source}): tasks solved at the first attempt",
        x_label="optimiser step",
        y_label="share of tasks",
        caption="",
        lines=(("copy input", baselines["copy input"].pass_at[1].score),),
    )
    curves = [
        _series(
            "held-out",
            c.evaluate.source,
            c.train.seed,
            [(float(s), r.pass_at[1].score) for s, r in reports.items()],
        )
        for c, reports in runs
    ]
    return table(HELD_OUT_COLUMNS, rows), draw(figure, curves, sorted({curve.arm for curve in curves}))


def _held_out_row(name: str, step: str, report: EvaluationReport) -> list[str]:
    first = report.pass_at[1]
    interval = f"{first.low:.1%} to {first.high:.1%}"
    return [
        name,
        step,
        str(first.solved),
        str(first.asked),
        f"{first.score:.1%}",
        interval,
        f"{report.token_accuracy:.3f}",
    ]


def _points(metrics: pd.DataFrame, key: str) -> list[tuple[float, float]]:
    return [(float(step), value) for step, value in metrics[key].dropna().items()]


def _series(key: str, arm: str, seed: int, points: Sequence[tuple[float, float]]) -> Series:
    x, y = zip(*points, strict=True)
    return Series(figure=key, arm=arm, seed=seed, label="", x=x, y=y)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m reports.documents.learning", description=__doc__)
    parser.add_argument("what", choices=("gates", "held-out"))
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path, help="the PNG to write")
    given = parser.parse_args(arguments)
    text, figure = (gates if given.what == "gates" else held_out)(given.runs)
    write_atomically(given.out, figure)
    open_console().print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()

"""Generate the tables and figures of docs/results/learning.md: the overfit gate of the encoders, held-out scores.

    python -m reports.documents.learning gates RUN... --out FIGURE
    python -m reports.documents.learning held-out RUN... --out FIGURE

Both commands print a markdown table and write a figure from run folders. Neither trains.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import factorial
from pathlib import Path
from statistics import fmean, median

import pandas as pd

from etrm.atomic_files import write_atomically
from etrm.checkpoints.run_folder import read_config, read_findings
from etrm.checkpoints.run_table import read_table
from etrm.data import TaskSet
from etrm.data.rules import DEMOS, parse_rule_id
from etrm.evaluation import EvaluationReport, evaluate_baselines
from etrm.evaluation.statistics import binomial_interval
from etrm.investigation.evidence.figures import Figure, Series, smooth
from etrm.training.scoring.held_out_curve import SOLVED, TOKENS
from etrm.training.scoring.overfit_gate import GOAL, WINDOW, compare_demonstrations, judge
from etrm.training.scoring.score_run import evaluate_run
from etrm.training.task_sets import load_held_out_tasks
from reports.markdown import number, table
from reports.plots.figures import draw
from reports.runs.history import History
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
HELD_OUT_COLUMNS = (
    "answers of",
    "solved",
    "evaluated",
    "share",
    "95 % interval",
    "token accuracy",
    "episodes",
    "above guessing from",
    "minutes",
)
SHOWN_DEMOS = range(2, 7)
TRAINING_WINDOW = 100
"""Steps over which the share of training tasks is averaged."""


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
    """Return the tables and the figure of runs that were evaluated while they trained (``evaluate.every``).

    The tables have the last score of each run next to the baselines, and the same by the number of demonstrations and
    by the number of colours of a task.
    """
    runs = [HeldOutRun(folder) for folder in folders]
    tasks = load_held_out_tasks(runs[0].config)
    baselines = {
        name: report.pass_at[1] for name, report in evaluate_baselines(tasks, runs[0].config.data).items()
    }
    guess = guess_known_colours(tasks)
    rows = [_score_row(name, found.solved, found.asked) for name, found in baselines.items()]
    if guess is not None:
        rows.append(
            ["guess the map of known colours", f"{guess * len(tasks):.0f}", str(len(tasks)), f"{guess:.1%}"]
        )
    rows += [run.row(len(tasks), guess or 0.0) for run in runs]
    width = len(HELD_OUT_COLUMNS)
    figure = Figure(
        key="held-out",
        title=f"Rules never trained on ({runs[0].config.evaluate.source})",
        x_label="training episodes",
        y_label="share solved at the first attempt",
        caption="",
        y_range=(0.0, 1.0),
        lines=tuple(
            (name, share)
            for name, share in (("copy input", baselines["copy input"].score), ("guess", guess))
            if share is not None
        ),
    )
    curves = [curve for run in runs for curve in run.curves()]
    text = [table(HELD_OUT_COLUMNS, [row + [""] * (width - len(row)) for row in rows]), _split_table(runs)]
    return "\n".join(text), draw(figure, curves, sorted({curve.arm for curve in curves}))


class HeldOutRun:
    """A run folder with a held-out curve."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config, self.metrics = folder, read_config(folder), read_table(folder)
        self.points = [
            (step * self.config.train.batch_size, share) for step, share in _points(self.metrics, SOLVED)
        ]

    def row(self, tasks: int, guess: float) -> list[str]:
        """The row of the last score."""
        episodes, share = self.points[-1]
        hours = sum(_read_seconds(self.folder)) / 3600
        above = [at for at, found in self.points if binomial_interval(round(found * tasks), tasks)[0] > guess]
        return [
            *_score_row(f"seed {self.config.train.seed}", round(share * tasks), tasks),
            f"{_points(self.metrics, TOKENS)[-1][1]:.3f}",
            f"{episodes / 1e6:.2f} M",
            f"{above[0] / 1e6:.2f} M" if above else "not yet",
            f"{60 * hours:.0f}",
        ]

    def curves(self) -> list[Series]:
        """The curves of held-out and of training tasks."""
        rows, seed = self.config.train.batch_size, self.config.train.seed
        trained = [(step * rows, share) for step, share in _points(self.metrics, "exact_all")]
        learnt = smooth(_series("held-out", "tasks trained on", seed, trained), TRAINING_WINDOW)
        return [_series("held-out", "rules never trained on", seed, self.points), learnt]

    def evaluate(self, demos: int) -> EvaluationReport:
        """The scores of the newest checkpoint on tasks with so many demonstrations."""
        return evaluate_run(self.folder, {"evaluate": {"demos": demos}}).report


def guess_known_colours(tasks: TaskSet) -> float | None:
    """The share of tasks that are solved by knowing which colours come out, and guessing which becomes which.

    Returns:
        the expected share; None if a rule is not a map of colours alone.
    """
    shares = []
    for task in tasks:
        kind, _, pairs = parse_rule_id(task.id).partition("-")
        if kind != "colours" or "+" in pairs:
            return None
        colours = len(pairs.split("."))
        needed = len(set(task.tests[0].input.ravel().tolist()) - {0})
        shares.append(factorial(colours - needed) / factorial(colours))
    return fmean(shares)


def _split_table(runs: Sequence[HeldOutRun]) -> str:
    """The solved share of each run by the numbers of demonstrations and of colours."""
    rows = []
    for run in runs:
        reports = {demos: run.evaluate(demos) for demos in SHOWN_DEMOS}
        solved: dict[int, list[bool]] = {}
        for query in reports[DEMOS].queries:
            colours = parse_rule_id(query.task_id).count(".") + 1
            solved.setdefault(colours, []).append(query.solved(1))
        rows.append(
            [
                f"seed {run.config.train.seed}",
                *(f"{report.pass_at[1].score:.1%}" for report in reports.values()),
                ", ".join(f"{n}: {fmean(found):.0%} of {len(found)}" for n, found in sorted(solved.items())),
            ]
        )
    columns = ("answers of", *(f"{demos} demonstrations" for demos in SHOWN_DEMOS), "by colours of the rule")
    return table(columns, rows)


def _score_row(name: str, solved: int, asked: int) -> list[str]:
    low, high = binomial_interval(solved, asked)
    return [name, str(solved), str(asked), f"{solved / asked:.1%}", f"{low:.1%} to {high:.1%}"]


def _read_seconds(folder: Path) -> list[float]:
    history = History(folder)
    history.update()
    return list(history.seconds)


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
    open_console().print(text, soft_wrap=True)


if __name__ == "__main__":
    main()

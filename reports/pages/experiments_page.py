"""Tables of the named experiments: the list of all, and the results of those that were run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from etrm.config import Config
from etrm.investigation.evidence.words import format_value
from etrm.investigation.experiments.registry import EXPERIMENTS, QUESTIONS, Experiment
from etrm.investigation.experiments.results_table import (
    ExperimentRow,
    PhaseState,
    answer_questions,
    judge_phases,
    make_experiment_rows,
)
from etrm.investigation.records import NotMeasured
from etrm.investigation.runs.loaded_run import LoadedRun
from reports.markdown import count, escape
from reports.markdown import table as markdown_table

STATES = {
    PhaseState.MET: "met",
    PhaseState.NOT_MET: "not met",
    PhaseState.TOO_SHORT: "too short",
    PhaseState.NOT_RUN: "not measured",
}


def listing() -> str:
    """Return a table of all experiments with their difference from the baseline and the questions they decide."""
    by_question = {name: ", ".join(q.name for q in QUESTIONS if name in q.by) for name in EXPERIMENTS}
    rows = [[e.name, e.suite, escape(e.what), by_question[e.name]] for e in EXPERIMENTS.values()]
    return markdown_table(["experiment", "suite", "difference from the baseline", "decides"], rows) + "\n"


def page(root: Path, base: Config, seeds: int, outside: Sequence[Experiment] = ()) -> str:
    """The tracking table, the questions and the phases, from what the folder holds now.

    Args:
        root: the folder of the runs.
        base: the baseline's config.
        seeds: number of seeds of each experiment.
        outside: experiments that are code from outside.
    """
    rows = make_experiment_rows(root, seeds, outside)
    return (
        "\n\n".join(
            (
                "# Experiments",
                f"Baseline: {f'preset {base.preset}' if base.preset else 'a config file'}, {base.train.steps} steps, "
                f"batch size {base.train.batch_size}, up to {count(seeds, 'seed')} per experiment. The loss is "
                "measured on the training queries after the run, over all ACT steps. The gain is "
                "ln(loss of the baseline) - ln(loss of the experiment), paired by seed, with its 90 % interval.",
                _tabulate_tracking(rows, seeds),
                "## Questions",
                _list_questions(rows),
                "## Phases",
                _list_phases(base, rows),
            )
        )
        + "\n"
    )


def _tabulate_tracking(rows: Sequence[ExperimentRow], seeds: int) -> str:
    cells = []
    waiting = [row.experiment.name for row in rows if not row.runs]
    for row in rows:
        if not row.runs:
            continue
        failed = sum(run.failed for run in row.runs)
        status = f"{len(row.runs) - failed} of {seeds} done"
        i = row.interval
        cells.append(
            [
                row.experiment.name,
                escape(row.experiment.what),
                status + (f", {failed} failed" if failed else ""),
                _number(row.mean("loss_end")),
                _number(row.mean("loss_end_foreign_demos")),
                _number(row.mean("accuracy_all")),
                f"{i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]" if i else "",
                _format_decision(row),
                str(row.collapsed),
                _format_held_out(row),
            ]
        )
    headers = [
        "experiment",
        "change",
        "status",
        "loss",
        "loss, mismatched demonstrations",
        "token accuracy",
        "gain",
        "helps",
        "collapsed runs",
    ]
    done = markdown_table([*headers, "held-out tasks solved"], cells, numeric="lllrrrrlrl") if cells else ""
    rest = f"Not run: {', '.join(waiting)}." if waiting else ""
    return "\n\n".join(filter(None, (done, rest)))


def _format_decision(row: ExperimentRow) -> str:
    if row.decision is None:
        return ""
    if not any(row.effects):
        return "no effect on the runs"  # the change was never active, so the question is not answered
    words = {"VALIDATED": "yes", "INVALIDATED": "no", "INCONCLUSIVE": "undecided"}
    if row.decision.candidate:
        return "likely (screening)"
    return words[row.decision.verdict]


def _format_held_out(row: ExperimentRow) -> str:
    done = [run for run in row.runs if run.finished]
    if not done:
        return ""
    solved = ", ".join(_format_count(run, "held_out_solved") for run in done)
    return f"{solved} of {_format_count(done[0], 'held_out_asked')}"


def _format_count(run: LoadedRun, key: str) -> str:
    return format_value(run.final.get(key, NotMeasured(absent="not measured")), ".0f")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _list_questions(rows: Sequence[ExperimentRow]) -> str:
    cells = [
        [a.question.name, escape(a.question.statement), a.verdict, escape(a.found)]
        for a in answer_questions(rows)
    ]
    return markdown_table(["question", "statement", "verdict", "found"], cells)


def _list_phases(base: Config, rows: Sequence[ExperimentRow]) -> str:
    cells = [
        [escape(phase.name), escape(phase.wanted), STATES[phase.state], escape(phase.found)]
        for phase in judge_phases(base, rows)
    ]
    return markdown_table(["phase", "required", "state", "found"], cells)

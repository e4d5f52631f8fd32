"""What `etrm evaluate` prints: the scores of a run next to those of its baselines, and how to read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from etrm.checkpoints.saved_steps import split_checkpoint
from etrm.config import Config
from etrm.evaluation import EvaluationReport, Submitted
from etrm.evaluation.misleading import Misleading, MisleadingScores, Share
from etrm.training.scoring.fitted_scores import Fit, FittedScores
from etrm.training.scoring.score_run import Scores
from reports.runs.history import History
from reports.runs.learning_course import compare_with_unseen, read_stage
from reports.terminal.data_tables import selection_lines
from reports.text_table import make_table

NUMBERS = ("pass@1", "pass@2", "solved/evaluated", "95 % interval", "token accuracy", "exact")
MISLEADING_TITLE = (
    "Misleading scores: only the first line is the score; the others are comparable with copying alone"
)


def scores_table(run: str, scores: Scores) -> Table:
    """Return a table with a line for the run and for each baseline.

    Args:
        run: the name of the run.
        scores: its scores.
    """
    evaluated = scores.config.evaluate
    title = (
        f"{run}, step {scores.step}, {scores.weights} weights: {evaluated.source} {evaluated.subset}, "
        f"{evaluated.augmentations} votes per query"
    )
    table = make_table(("answers of", *NUMBERS), right=NUMBERS, title=title)
    fitted = {fit.words: found.report for fit, found in scores.fitted.items()}
    for name, found in {"this run": scores.model, **fitted, **scores.others}.items():
        table.add_row(name, *_score_cells(found))
    return table


def print_scores(console: Console, run: Path, scores: Scores) -> None:
    """Print the table of scores and the lines below it.

    Args:
        console: the console.
        run: the run folder, or a checkpoint in it.
        scores: the scores of the run.
    """
    console.print(scores_table(str(run), scores))
    config = scores.config
    for line in selection_lines(scores.held_out, config.data.max_side, config.evaluate.max_tasks, "evaluate"):
        console.print(line, soft_wrap=True, markup=False)
    outside = len(scores.model.out_of_region)
    console.print(f"{outside} queries whose output does not fit the model's region, counted as unsolved")
    folder, _ = split_checkpoint(run)
    for line in (*fitted_lines(scores.fitted), *course_lines(folder, scores.config, scores.model)):
        console.print(line, soft_wrap=True)
    if scores.misleading:
        console.print(misleading_table(scores.misleading))


def scores_record(run: str, scores: Scores) -> dict[str, Any]:
    """Return the scores as JSON can hold them: those of the run, after fitting, of baselines, and misleading ones.

    Args:
        run: the name of the run.
        scores: its scores.
    """
    fitted = {
        fit.value: {"report": _report_record(found.report)}
        | {each.name: getattr(found, each.name) for each in fields(found) if each.name != "report"}
        for fit, found in scores.fitted.items()
    }
    return {
        "run": run,
        "step": scores.step,
        "weights": scores.weights,
        "evaluate": scores.config.evaluate.model_dump(mode="json"),
        "report": _report_record(scores.model),
        "fitted": fitted,
        "baselines": {name: _report_record(found) for name, found in scores.others.items()},
        "misleading": {
            name: {kind.value: asdict(share) for kind, share in found.items()}
            for name, found in scores.misleading.items()
        },
        "interrupted": scores.interrupted,
    }


def _report_record(found: EvaluationReport) -> dict[str, Any]:
    """The scores of a report and the rank of each answer, without the answers."""
    kept = {each.name: getattr(found, each.name) for each in fields(found) if each.name != "candidates"}
    return kept | {
        "pass_at": {str(k): asdict(one) for k, one in found.pass_at.items()},
        "queries": [asdict(query) for query in found.queries],
    }


def fitted_lines(scores: Mapping[Fit, FittedScores]) -> list[str]:
    """A line for each way of fitting: its cost, and how well the demonstrations are fitted."""
    return [f"{fit.words}: {', '.join(_describe_fit(found))}" for fit, found in scores.items()]


def course_lines(folder: Path, config: Config, unseen: EvaluationReport) -> list[str]:
    """The stage of the run, and whether it memorises or infers.

    Args:
        folder: the run folder.
        config: its settings.
        unseen: the answers to tasks that it was not trained on.
    """
    history = History(folder)
    history.update()
    lines = [f"stage of training: {read_stage(history.table).words}"]
    found = compare_with_unseen(history.table, config.train.batch_size, unseen)
    return lines if found is None else [*lines, f"trained and unseen tasks: {found.words}"]


def misleading_table(scores: Mapping[str, MisleadingScores]) -> Table:
    """A line for each score and a column for the run and each trivial baseline, with 95 % intervals.

    Args:
        scores: the scores by name of what was evaluated; all have been evaluated on the same tasks.
    """
    numbers = ("n", *scores)
    table = make_table(("right, with 95 % interval", *numbers), right=numbers, title=MISLEADING_TITLE)
    for kind in Misleading:
        shares = [found[kind] for found in scores.values() if kind in found]
        if not shares:
            continue
        style = "bold" if kind is Misleading.TASKS else "dim"
        table.add_row(kind.words, str(shares[0].of), *map(_format_share, shares), style=style)
    return table


def submission_line(done: Submitted) -> str:
    """Return one line on a submission: its file, and the number of tasks without an answer, by reason."""
    line = f"submission: {done.path}: {done.tasks} tasks"
    if not done.placeholders:
        return line
    reasons = Counter(str(reason) for reason in done.placeholders.values())
    each = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return f"{line}, {len(done.placeholders)} with placeholders instead of answers ({each}): {done.listing}"


def _score_cells(found: EvaluationReport) -> list[str]:
    first, second = found.pass_at[1], found.pass_at.get(2)
    return [
        f"{first.score:.1%}",
        f"{second.score:.1%}" if second else "-",
        f"{first.solved}/{first.asked}",
        f"{first.low:.1%} to {first.high:.1%}",
        f"{found.token_accuracy:.3f}",
        f"{found.exact_accuracy:.3f}",
    ]


def _describe_fit(found: FittedScores) -> list[str]:
    facts = [f"{found.seconds:.2f} s per task"]
    if found.steps is not None:
        facts.append(f"{found.steps:.0f} gradient steps per search")
    if found.fitted is not None:
        facts.append(f"{found.fitted:.1%} of the fitted demonstrations answered")
    if found.held_out is not None:
        facts.append(f"{found.held_out:.1%} of those left out")
    if found.unadapted:
        facts.append(f"{found.unadapted} tasks with too few demonstrations to adapt to")
    return facts


def _format_share(share: Share) -> str:
    return f"{share.value:.1%} [{100 * share.low:.1f}, {100 * share.high:.1f}]"

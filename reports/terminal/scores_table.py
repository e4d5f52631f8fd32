"""The scores of a run next to those of its baselines, in the terminal."""

from __future__ import annotations

from rich.table import Table

from etrm.evaluation import EvaluationReport
from etrm.training.scoring.score_run import Scores
from reports.text_table import make_table

NUMBERS = ("pass@1", "pass@2", "solved/evaluated", "95 % interval", "token accuracy", "exact")


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
        table.add_row(name, *_cells(found))
    return table


def _cells(found: EvaluationReport) -> list[str]:
    first, second = found.pass_at[1], found.pass_at.get(2)
    return [
        f"{first.score:.1%}",
        f"{second.score:.1%}" if second else "-",
        f"{first.solved}/{first.asked}",
        f"{first.low:.1%} to {first.high:.1%}",
        f"{found.token_accuracy:.3f}",
        f"{found.exact_accuracy:.3f}",
    ]

"""Scores that overstate a run, next to the right one, in the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from etrm.evaluation.misleading import Misleading, MisleadingScores, Share
from reports.text_table import make_table

TITLE = "Misleading scores: only the first line is the score; the others are comparable with copying alone"


def misleading_table(scores: Mapping[str, MisleadingScores]) -> Table:
    """A line for each score and a column for the run and each trivial baseline, with 95 % intervals.

    Args:
        scores: the scores by name of what was evaluated; all have been evaluated on the same tasks.
    """
    numbers = ("n", *scores)
    table = make_table(("right, with 95 % interval", *numbers), right=numbers, title=TITLE)
    for kind in Misleading:
        shares = [found[kind] for found in scores.values()]
        style = "bold" if kind is Misleading.TASKS else "dim"
        table.add_row(kind.words, str(shares[0].of), *map(_format, shares), style=style)
    return table


def _format(share: Share) -> str:
    return f"{share.value:.1%} [{100 * share.low:.1f}, {100 * share.high:.1f}]"

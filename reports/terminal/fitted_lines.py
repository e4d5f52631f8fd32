"""What fitting a model to each task cost, in the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from etrm.training.scoring.fitted_scores import Fit, FittedScores


def fitted_lines(scores: Mapping[Fit, FittedScores]) -> list[str]:
    """A line for each way of fitting: its cost, and how well the demonstrations are fitted."""
    return [f"{fit.words}: {', '.join(_facts(found))}" for fit, found in scores.items()]


def _facts(found: FittedScores) -> list[str]:
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

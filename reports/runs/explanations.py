"""The words for an explained answer of the symbolic solver."""

from __future__ import annotations

from etrm.training.scoring.explain_run import ExplainedQuery, ExplainedTask


def describe_task(explained: ExplainedTask) -> str:
    """Name a task, and what the run knows of it."""
    seen = "trained on" if explained.trained else "held out"
    return f"{explained.task.id}, {seen}, step {explained.step}"


def describe_outcome(query: ExplainedQuery) -> str:
    """Say whether an answer is right."""
    return {True: "solved", False: "wrong", None: "true output unknown"}[query.solved]


def describe_rules(query: ExplainedQuery) -> list[str]:
    """List the best rules for a query, each with its weight and its fit to the demonstrations."""
    lines = []
    for name, rated in zip(("chosen", "runner-up"), query.rules, strict=False):
        fits = ", ".join(f"{fit:.0%}" for fit in rated.fits)
        lines += [
            f"{name}: {rated.rule}",
            f"weight {rated.weight:.3g}; right cells per demonstration: {fits}",
        ]
    return lines

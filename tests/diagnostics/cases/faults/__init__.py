"""Programs with a fault, each with its fix: a file for each occasion on which some were written."""

from tests.diagnostics.cases.faults import (
    domains,
    forum,
    further,
    held,
    kept,
    latest,
    libraries,
    loops,
    losses,
    models,
    planted,
    questions,
    reported,
    scripts,
    training,
    variations,
)

__all__ = [
    "domains",
    "forum",
    "further",
    "held",
    "kept",
    "latest",
    "libraries",
    "loops",
    "losses",
    "models",
    "planted",
    "questions",
    "reported",
    "scripts",
    "training",
    "variations",
]

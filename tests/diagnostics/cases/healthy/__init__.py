"""Healthy loops and programs that look unusual: a file for each occasion on which some were written."""

from tests.diagnostics.cases.healthy import (
    audited,
    domains,
    fields,
    forum,
    held,
    kept,
    latest,
    libraries,
    loops,
    objectives,
    planted,
    structures,
    threads,
    training_loops,
    variations,
)

__all__ = [
    "audited",
    "domains",
    "fields",
    "forum",
    "held",
    "kept",
    "latest",
    "libraries",
    "loops",
    "objectives",
    "planted",
    "structures",
    "threads",
    "training_loops",
    "variations",
]

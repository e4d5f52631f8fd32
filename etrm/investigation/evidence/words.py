"""Small pieces of the sentences in a result."""

from __future__ import annotations


def format_seeds(seeds: int) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{seeds} seed{'' if seeds == 1 else 's'}"


def capitalise(words: str) -> str:
    """The words as the beginning of a sentence; names in them keep their case."""
    return f"{words[:1].upper()}{words[1:]}"

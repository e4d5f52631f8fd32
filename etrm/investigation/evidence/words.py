"""Small pieces of the sentences in a result."""

from __future__ import annotations

from etrm.investigation.records import NotMeasured, Value


def format_seeds(seeds: int) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{seeds} seed{'' if seeds == 1 else 's'}"


def format_value(value: Value, form: str) -> str:
    """A number in a format such as ``.3f``, or the reason why there is none."""
    return value.absent if isinstance(value, NotMeasured) else f"{value:{form}}"


def capitalise(words: str) -> str:
    """The words as the beginning of a sentence; names in them keep their case."""
    return f"{words[:1].upper()}{words[1:]}"

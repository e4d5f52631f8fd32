"""Mechanistic hypotheses: the subject of every seed is looked at, and the controls, and the worst decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from etrm.config import Config
from etrm.errors import EtrmError
from etrm.investigation.cache import outcomes
from etrm.investigation.protocol import (
    Investigation,
    broken_controls,
    control_outcome,
    control_preset,
    seeds_in_words,
)
from etrm.investigation.result import ControlOutcome, Verdict


class Found(Protocol):
    """What an inspection found: whether the hypothesis holds, and why, with the numbers."""

    @property
    def holds(self) -> bool:
        """Whether the hypothesis holds."""

    @property
    def words(self) -> str:
        """The findings with their numbers."""


def inspected_controls(
    investigation: Investigation, id: str, positive: Sequence[str], inspect: Callable[[Config], Found]
) -> tuple[ControlOutcome, ...]:
    """How the healthy control and each fault behave under an inspection; kept between investigations."""

    by_name = {"healthy": ()} | {name: (name,) for name in positive}

    def outcome(name: str, faults: tuple[str, ...]) -> ControlOutcome:
        try:
            found = inspect(investigation.control_config(faults))
        except EtrmError as error:
            return control_outcome(name, bool(faults), Verdict.ERROR, error.what)
        got = Verdict.VALIDATED if found.holds else Verdict.INVALIDATED
        return control_outcome(name, bool(faults), got, found.words)

    configs = [control_preset(faults) for faults in by_name.values()]
    return outcomes(id, configs, lambda: [outcome(*control) for control in by_name.items()])


def judged(
    worst: Found | None, error: str, controls: Sequence[ControlOutcome], scope: str = ""
) -> tuple[Verdict, str]:
    """Verdict and sentence of what was looked at.

    Args:
        worst: of the subjects; None where none could be built.
        error: why a subject could not be built, or nothing.
        controls: that must have behaved.
        scope: what the verdict rests on, at the end of the sentence.
    """
    if broken := broken_controls(controls):
        return Verdict.ERROR, broken
    if worst is None or (error and not worst.holds):
        return Verdict.ERROR, f"The subject could not be built: {error}"
    words = sentence(worst)
    return (Verdict.VALIDATED if worst.holds else Verdict.INVALIDATED), f"{words} {scope}".rstrip() + "."


def worst_of(seeds: int) -> str:
    """What a verdict of the worst of some seeds rests on."""
    return f"({seeds_in_words(seeds)}, worst shown)"


def sentence(found: Found) -> str:
    """What was found as the beginning of a sentence."""
    return f"{found.words[0].upper()}{found.words[1:]}"

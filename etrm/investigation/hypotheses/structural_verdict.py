"""Mechanistic hypotheses: the subject of every seed is looked at, and the controls, and the worst decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from etrm.config import Config
from etrm.errors import EtrmError
from etrm.investigation.evidence import Found
from etrm.investigation.protocol import (
    CommonReason,
    Investigation,
    Judgement,
    broken_controls,
    control_outcome,
    control_preset,
    seeds_in_words,
)
from etrm.investigation.result import ControlOutcome, Verdict
from etrm.investigation.runs.cache import outcomes


def inspected_controls(
    investigation: Investigation, id: str, positive: Sequence[str], inspect: Callable[[Config], Found]
) -> tuple[ControlOutcome, ...]:
    """How the healthy control and each fault behave under an inspection; kept between investigations."""

    by_name = {"healthy": ()} | {name: (name,) for name in positive}

    def outcome(name: str, faults: tuple[str, ...]) -> ControlOutcome:
        try:
            found = inspect(investigation.control_config(faults))
        except EtrmError as error:
            failed = Judgement(Verdict.ERROR, (CommonReason.SUBJECT_NOT_BUILT,), error.what)
            return control_outcome(name, bool(faults), failed)
        return control_outcome(name, bool(faults), judgement(found, found.words))

    configs = [control_preset(faults) for faults in by_name.values()]
    return outcomes(id, configs, lambda: [outcome(*control) for control in by_name.items()])


def judged(worst: Found | None, error: str, controls: Sequence[ControlOutcome], scope: str = "") -> Judgement:
    """What is said of what was looked at.

    Args:
        worst: of the subjects; None where none could be built.
        error: why a subject could not be built, or nothing.
        controls: that must have behaved.
        scope: what the verdict rests on, at the end of the sentence.
    """
    if broken := broken_controls(controls):
        return Judgement(Verdict.ERROR, (CommonReason.CONTROLS_MISBEHAVED,), broken)
    if worst is None or (error and not worst.holds):
        words = f"The subject could not be built: {error}"
        return Judgement(Verdict.ERROR, (CommonReason.SUBJECT_NOT_BUILT,), words)
    return judgement(worst, f"{sentence(worst)} {scope}".rstrip() + ".")


def judgement(found: Found, words: str) -> Judgement:
    """A mechanistic hypothesis is decided by whether what was found holds."""
    return Judgement(Verdict.VALIDATED if found.holds else Verdict.INVALIDATED, found.codes, words)


def worst_of(seeds: int) -> str:
    """What a verdict of the worst of some seeds rests on."""
    return f"({seeds_in_words(seeds)}, worst shown)"


def sentence(found: Found) -> str:
    """What was found as the beginning of a sentence."""
    return f"{found.words[0].upper()}{found.words[1:]}"

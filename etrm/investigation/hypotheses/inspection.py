"""Mechanistic hypotheses: inspect the config under test with every seed, and the controls; the worst seed decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from etrm.config import Config
from etrm.errors import EtrmError
from etrm.investigation.controls import Control, broken_controls, control_outcome, preset_controls
from etrm.investigation.evidence.reasons import InspectionFacts
from etrm.investigation.evidence.words import capitalise, format_seeds
from etrm.investigation.judgement import CommonReason, Judgement
from etrm.investigation.records import ControlOutcome, Verdict
from etrm.investigation.runs.cache import outcomes
from etrm.investigation.session import Investigation


def inspect_controls(
    investigation: Investigation,
    id: str,
    positive: Sequence[str],
    inspect: Callable[[Config], InspectionFacts],
) -> tuple[ControlOutcome, ...]:
    """Inspect the healthy control and each fault; the outcomes are kept between investigations.

    Args:
        investigation: provides the decoder of the controls.
        id: the id of the hypothesis.
        positive: names of the faults that must be found.
        inspect: called with the config of each control.
    """

    def inspect_with_decoder(config: Config) -> InspectionFacts:
        return inspect(investigation.control_config(config.faults))

    return judge_controls(id, preset_controls(positive), judge_by(inspect_with_decoder), inspect)


def judge_controls(
    id: str, controls: Sequence[Control], judge_config: Callable[[Config], Judgement], code: object = None
) -> tuple[ControlOutcome, ...]:
    """Judge controls of any config; the outcomes are kept between investigations.

    Args:
        id: the id of the hypothesis.
        controls: the controls, whose configs determine the outcomes.
        judge_config: called with the config of each control.
        code: a function whose code counts too if it is from outside the packages.
    """

    def judge_control(control: Control) -> ControlOutcome:
        try:
            judgement = judge_config(control.config)
        except EtrmError as error:
            judgement = Judgement(Verdict.ERROR, (CommonReason.SUBJECT_NOT_BUILT,), error.what)
        return control_outcome(control.name, control.positive, judgement, control.what)

    configs = [control.config for control in controls]
    return outcomes(id, configs, lambda: [judge_control(control) for control in controls], code)


def judge(
    worst: InspectionFacts | None, error: str, controls: Sequence[ControlOutcome], scope: str = ""
) -> Judgement:
    """The verdict that the inspections give.

    Args:
        worst: the worst inspection of any seed; None where the model could be built with no seed.
        error: the reason why a model could not be built, or nothing.
        controls: outcomes of the controls; each must be the expected one.
        scope: the data that the verdict is based on, for the end of the sentence.
    """
    if broken := broken_controls(controls):
        return Judgement(Verdict.ERROR, (CommonReason.CONTROLS_MISBEHAVED,), broken)
    if worst is None or (error and not worst.holds):
        words = f"The model could not be built: {error}"
        return Judgement(Verdict.ERROR, (CommonReason.SUBJECT_NOT_BUILT,), words)
    return judge_inspection(worst, f"{capitalise(worst.words)} {scope}".rstrip() + ".")


def judge_by(inspect: Callable[[Config], InspectionFacts]) -> Callable[[Config], Judgement]:
    """A function that judges a config by its inspection alone."""

    def judge_config(config: Config) -> Judgement:
        found = inspect(config)
        return judge_inspection(found, found.words)

    return judge_config


def judge_inspection(found: InspectionFacts, words: str) -> Judgement:
    """The verdict of one inspection: VALIDATED where the hypothesis holds, INCONCLUSIVE where that is undecided."""
    otherwise = Verdict.INCONCLUSIVE if found.undecided else Verdict.INVALIDATED
    return Judgement(Verdict.VALIDATED if found.holds else otherwise, found.codes, words)


def describe_scope(seeds: int) -> str:
    """The sample of a verdict whose numbers are those of the worst seed: ``(1 seed)``, ``(the worst of 3 seeds)``."""
    return f"({'the worst of ' if seeds > 1 else ''}{format_seeds(seeds)})"

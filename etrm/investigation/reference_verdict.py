"""What departures from the reference mean for the hypotheses: the first stage that departs is the cause."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path

from etrm.config import Config, MonitorConfig, with_settings
from etrm.investigation.comparison.screening import shorten_run
from etrm.investigation.controls import control_preset, subject_arm
from etrm.investigation.evidence.table import Direction, Metric, Table
from etrm.investigation.evidence.words import capitalise
from etrm.investigation.hypotheses.hypothesis import Hypothesis
from etrm.investigation.judgement import CommonReason, Judgement
from etrm.investigation.records import Verdict
from etrm.investigation.reference_comparison.reference_check import (
    LAST_STEP,
    ReferenceFacts,
    check_course,
    check_loading,
    check_start,
)
from etrm.investigation.reference_comparison.repeated_steps import add_steps_before_departure
from etrm.investigation.result import CauseCode, HypothesisResult, RecordedDeparture, ReferenceResult
from etrm.investigation.runs.jobs import Job
from etrm.investigation.session import Investigation, with_seed
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.training.stages.before_model import FROZEN_PART
from etrm.training.monitoring.step_check import ComparedStep

STUDY = "reference"
MOST_EVERY = MonitorConfig().reference_every
COMPARED = 20  # steps of a whole run, and its first ones: all of a run as short as that
MOST_LISTED = 10
"""First departures in a result, which also has the largest of each stage. A wrong loss changes every gradient."""

HYPOTHESES: dict[PipelineStage, str] = {
    PipelineStage.MODEL: "H7",
    PipelineStage.LOADING: "H1",
    PipelineStage.SCHEDULE: "H4",
    PipelineStage.DATA: "H5",
    PipelineStage.CONTEXT: "H3",
    PipelineStage.CARRY: "H1",
    PipelineStage.CORE: "H1",
    PipelineStage.HALTING: "H5",  # when a row takes a new sample; the halting logit itself belongs to none
    PipelineStage.LABELS: "H5",
    PipelineStage.LOSS: "H5",
    PipelineStage.GRADIENT: "H2",
    PipelineStage.CLIPPING: "H4",
    PipelineStage.UPDATE: "H4",
    PipelineStage.AVERAGE: "H6",
    PipelineStage.QUERIES: "H6",
    PipelineStage.WEIGHTS: "H6",
    PipelineStage.ANSWERS: "H6",
    PipelineStage.VOTES: "H6",
    PipelineStage.SCORE: "H6",
}
"""The hypothesis to which each stage belongs."""

AFTER_GRADIENT = PipelineStage.CLIPPING, PipelineStage.UPDATE
"""The stages in which a gradient may be lost."""


class ReferenceReason(StrEnum):
    """What the comparison shows."""

    EQUAL = "reference.equal"
    ENDED_EARLY = "reference.ended-early"
    NOT_COMPARED = "reference.not-compared"
    IN_THE_RUN = "reference.departs-in-the-run"
    IN_SHARED_CODE = "reference.departs-in-shared-code"
    LATE = (
        "reference.departs-late"  # after the steps that are compared of the control, or in what a run leaves
    )


PLACES = {
    True: (
        ReferenceReason.IN_SHARED_CODE,
        "The healthy control differs at the same stage, so the fault is in code that both use.",
    ),
    False: (
        ReferenceReason.IN_THE_RUN,
        "The healthy control agrees with the reference, so the fault is in settings or code that only this run uses.",
    ),
    None: (ReferenceReason.LATE, "Whether the healthy control differs too was not measured."),
}
"""The code and the sentence by whether the healthy control departs too."""
COMPARE_CODE = (
    "Compare the code of this stage with that of an unedited installation, correct it, and run the same command with "
    "another --out."
)
"""Next step where the code departs from the reference and no tested hypothesis is about it."""
DEPARTURE = Metric("reference.departure", "{item}: relative difference from the reference", Direction.LOWER)


def course_job(investigation: Investigation, *, until_departure: bool = False) -> Job:
    """The run under test in its own length, up to that of the tier, with steps compared whatever its settings are.

    It has a checkpoint in the middle, from which it is resumed when it has ended.

    Args:
        investigation: the investigation.
        until_departure: whether it stops at the first step that departs.
    """
    seed = investigation.seeds[0]
    short = shorten_run(investigation.subject, investigation.tier.reference_steps)
    steps = short.train.steps
    kept = {
        "checkpoint_every": min(short.train.checkpoint_every, max(1, steps // 2)),
        "keep_checkpoints": max(2, short.train.keep_checkpoints),
    }
    config = with_settings(with_seed(short, seed), train=kept, monitor=compare_often(steps))
    return Job(subject_arm(STUDY), seed, config, until_departure=until_departure)


def compare_recorded(folder: Path, subject: Config, most: int) -> ReferenceResult | None:
    """The result of the steps that a run compared while it trained; None if none of them departs.

    Args:
        folder: the run folder, or a checkpoint in one.
        subject: the config of the run.
        most: the largest number of steps to train again, to find the one at which it begins to depart.

    Raises:
        RunFolderError: the file is damaged.
    """
    run = folder.parents[1] if folder.parent.name == "checkpoints" else folder
    facts = check_course(run)
    if not facts.first:
        return None
    return judge_reference(add_steps_before_departure(facts, run, subject, most), subject)


def compare_often(steps: int) -> dict[str, int | bool]:
    """The settings with which a run of some steps compares enough of them to meet what happens at every tenth."""
    return {"enabled": True, "reference_every": min(MOST_EVERY or steps, max(1, steps // COMPARED))}


def compare_start(investigation: Investigation, given: Config) -> ReferenceResult:
    """Compare the first steps, the tasks, the loader and the evaluator of the run under test with the reference.

    Args:
        investigation: the investigation.
        given: the config under test with its own store and workers, which no other run of the investigation has.
    """
    investigation.progress(STUDY, 0, 1)
    return judge_reference(
        check_start(with_seed(investigation.subject, investigation.seeds[0]), given), investigation.subject
    )


def compare_loading(investigation: Investigation, start: ReferenceResult) -> ReferenceResult:
    """The same for a decoder that is trained for a few steps and loaded, after a start without one.

    A config that names no decoder does not reach the code that loads one.
    """
    subject = investigation.subject
    if subject.train.decoder is not None or not investigation.takes_decoder:
        return start
    try:
        config = investigation.starting_from(investigation.brief_decoder)
    except Exception:  # noqa: BLE001  (code under test may raise anything; H1 reports the error)
        return start
    facts = check_loading(with_seed(config, investigation.seeds[0]))
    if facts.first is None:
        return start
    control = partial(check_loading, investigation.control_config())
    return judge_reference(facts, subject, start, control)


def compare_course(
    investigation: Investigation,
    start: ReferenceResult,
    *,
    until_departure: bool = False,
    known: Sequence[ComparedStep] = (),
) -> ReferenceResult:
    """The same over the whole run, after a start that does not depart.

    What a finished run leaves is compared only where none of its steps departs: it comes after them.

    Args:
        investigation: the investigation.
        start: the result of the start.
        until_departure: whether the run stops at the first step that departs.
        known: steps that were compared in addition to those of the run.
    """
    job = course_job(investigation, until_departure=until_departure)
    run = investigation.try_run(STUDY, job)
    folder = investigation.root / job.folder
    facts = check_course(folder)
    if facts.first is None and run is not None and run.finished:
        facts = check_course(folder, evaluated=True)
    elif facts.first is None:
        reason = f"the whole run did not finish ({run.reason if run else 'it was stopped'})"
        facts = replace(facts, error=reason)
    return judge_reference(find_beginning(facts, investigation, known), investigation.subject, start, None)


def find_beginning(
    facts: ReferenceFacts, investigation: Investigation, known: Sequence[ComparedStep] = ()
) -> ReferenceFacts:
    """Add the steps of the whole run before the first that departs.

    Args:
        facts: the compared steps of the run.
        investigation: the investigation.
        known: such steps that were compared before.
    """
    job, most = course_job(investigation), investigation.tier.reference_steps
    steps = {step.step: step for step in (*known, *facts.steps)}
    facts = replace(facts, steps=tuple(steps[number] for number in sorted(steps)))
    return add_steps_before_departure(facts, investigation.root / job.folder, job.config, most)


def judge_reference(
    facts: ReferenceFacts,
    subject: Config,
    before: ReferenceResult | None = None,
    check_control: Callable[[], ReferenceFacts] | None = lambda: check_start(control_preset()),
) -> ReferenceResult:
    """The result of a comparison.

    Args:
        facts: the outcome of what was compared.
        subject: the config under test.
        before: the result of an earlier comparison that found nothing.
        check_control: compares the healthy control in the same way; None where that is not done.
    """
    steps = tuple(
        sorted({step.step for step in facts.steps if not step.absent} | set(before.steps if before else ()))
    )
    first = facts.first
    if first is None:
        absent = facts.error or next((step.absent for step in facts.steps if step.absent), "")
        if not steps and before is not None:
            return before  # which says why the run ended in an error
        if not steps:
            return ReferenceResult(
                codes=(ReferenceReason.NOT_COMPARED,),
                sentence=f"No step could be compared: {absent or 'none ran'}.",
            )
        if before is not None and ReferenceReason.ENDED_EARLY in before.codes:
            return before.replace(steps=steps)
        if absent:
            words = f"The comparison ended early: {absent}. Its {len(steps)} compared steps are equal to the reference."
            return ReferenceResult(codes=(ReferenceReason.ENDED_EARLY,), sentence=words, steps=steps)
        words = f"All {len(steps)} compared steps are equal to the reference within rounding."
        return ReferenceResult(codes=(ReferenceReason.EQUAL,), sentence=words, steps=steps)
    shared: bool | None = None
    if check_control is not None and (first.step is None or first.step <= LAST_STEP):
        shared = any(found.stage is first.stage for found in check_control().departures)
    code, place = PLACES[shared]
    onset = f" Step {first.step - 1} agrees." if first.step and first.step - 1 in steps else ""
    return ReferenceResult(
        codes=(code,),
        sentence=f"{capitalise(describe(first))}.{onset} {place}",
        steps=steps,
        stage=first.stage,
        hypothesis=_hypothesis(facts.departures, subject),
        shared=shared,
        departures=tuple(_record(found) for found in _select_listed(facts.departures)),
    )


def _select_listed(departures: Sequence[Departure]) -> list[Departure]:
    """The first departures, and of each stage the largest as a multiple of its limit, in their order."""
    ratios = [found.size / found.limit if found.limit else math.inf for found in departures]
    largest: dict[PipelineStage, int] = {}
    for place, found in enumerate(departures):
        if found.stage not in largest or ratios[place] > ratios[largest[found.stage]]:
            largest[found.stage] = place
    return [
        departures[place] for place in sorted({*range(min(MOST_LISTED, len(departures))), *largest.values()})
    ]


def describe(departure: Departure) -> str:
    """A departure in words."""
    when = "" if departure.step is None else f" of step {departure.step}"
    differs = f"differs from the reference by {departure.size:.2g}"
    if math.isinf(departure.size):
        differs = "is not finite, or has another shape than in the reference"
    where = f", {departure.where}" if departure.where else ""
    stage = departure.stage.value
    return f"at the stage {stage}{when}, {departure.tensor} {differs} (limit {departure.limit:g}{where})"


def decide_from_reference(hypothesis: Hypothesis, reference: ReferenceResult) -> HypothesisResult:
    """The hypothesis to which the first departing stage belongs, decided by that alone."""
    judgement = Judgement(Verdict.VALIDATED, reference.codes, reference.sentence)
    return hypothesis.statement.decided(judgement, evidence=_rows(reference))


def with_reference(found: HypothesisResult, reference: ReferenceResult) -> HypothesisResult:
    """A decided hypothesis with what the reference says about it.

    The one to which the first departing stage belongs holds. Another one that ended in an error, or that only
    statistics support, is explained by it.
    """
    if reference.hypothesis is None:
        return found
    if found.verdict is Verdict.NOT_RUN:
        # Its own check is about what this model has not; that the run departs there is known all the same.
        inapplicable = found.id == reference.hypothesis and CommonReason.NOT_APPLICABLE in found.codes
        return _validate(found, reference) if inapplicable else found
    if found.id == reference.hypothesis:
        if found.verdict is Verdict.VALIDATED and found.kind != "statistical":
            return found.replace(evidence=(*found.evidence, *_rows(reference)))
        return _validate(found, reference)
    weak = found.kind == "statistical" or found.verdict is not Verdict.VALIDATED
    held = found.verdict in (Verdict.ERROR, Verdict.VALIDATED) or found.candidate
    return found.replace(explained_by=reference.hypothesis) if weak and held else found


def _validate(found: HypothesisResult, reference: ReferenceResult) -> HypothesisResult:
    return found.replace(
        verdict=Verdict.VALIDATED,
        codes=reference.codes,
        sentence=reference.sentence,
        evidence=(*found.evidence, *_rows(reference)),
        candidate=False,
        p_value=None,
        explained_by=None,
    )


def explain_departure(reference: ReferenceResult) -> tuple[CauseCode, str, str] | None:
    """Code, sentence and next step where no tested hypothesis is the cause, but the run departs from the reference."""
    if reference.stage is None:
        return None
    owner = reference.hypothesis
    belongs = f"belongs to {owner}, which was not tested" if owner else "belongs to no hypothesis"
    return CauseCode.DEPARTS, f"{reference.sentence} What differs {belongs}.", COMPARE_CODE


def _hypothesis(departures: Sequence[Departure], subject: Config) -> str | None:
    first = departures[0]
    # Only of the first step: what departs later may be a consequence, and is not known yet while a run continues.
    at_stage = [found for found in departures if found.stage is first.stage and found.step == first.step]
    names = [found.tensor for found in at_stage]
    if first.stage is PipelineStage.HALTING and any(name.startswith("q") for name in names):
        return None
    if first.stage is PipelineStage.MODEL and first.tensor.startswith("core."):
        return "H1"
    named = "H2" if _trains_no_encoder(first, departures) else HYPOTHESES[first.stage]
    return "H4" if named == "H2" and not subject.model.has_encoder else named


def _trains_no_encoder(first: Departure, departures: Sequence[Departure]) -> bool:
    """Whether the encoder does not train in the first step that departs, as H2 measures it.

    It is not called, a gradient does not arrive, or an update does not move it. What changes a gradient or uses it by
    another formula is the optimiser.
    """
    if first.stage is PipelineStage.CONTEXT:
        return first.unmoved
    if first.stage not in AFTER_GRADIENT and first.tensor != FROZEN_PART:
        return False
    later = [one for one in departures if one.stage in AFTER_GRADIENT and one.step == first.step]
    encoder = [one for one in later if one.tensor.startswith("encoder.")]
    still = bool(encoder) and all(one.unmoved for one in encoder)
    # A clipped gradient that is zero everywhere still lets the weights decay.
    lost = [one for one in later if one.stage is PipelineStage.CLIPPING]
    return still and all(one in encoder for one in lost)


def _rows(reference: ReferenceResult) -> Table:
    n = f"{len(reference.steps)} steps"
    seen: dict[str, RecordedDeparture] = {}
    for found in reference.departures:
        seen.setdefault(found.stage.value, found)
    return tuple(
        DEPARTURE.row(
            found.size,
            item=stage,
            item_words=f"{stage}, {found.tensor}",
            control=0.0,
            threshold=f"<= {found.limit:g}",
            passed=False,
            n=n,
            note=", ".join(filter(None, (f"step {found.step}" if found.step else "", found.where))),
        )
        for stage, found in seen.items()
    )


def _record(found: Departure) -> RecordedDeparture:
    return RecordedDeparture(
        stage=found.stage,
        tensor=found.tensor,
        size=min(found.size, sys.float_info.max),
        limit=found.limit,
        where=found.where,
        step=found.step,
        bucket=found.bucket,
    )

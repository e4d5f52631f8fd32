"""H4 of an own model: the training dynamics prevent learning. Short runs with one thing changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from math import inf

from etrm.errors import EtrmError
from etrm.evaluation.statistics import FULL_SEEDS
from etrm.investigation.comparison.paired_contrast import TreatmentComparison, compare_treatments
from etrm.investigation.controls import HEALTHY, broken_controls, control_outcome
from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.evidence.words import format_seeds
from etrm.investigation.hypotheses.hypothesis import Statement
from etrm.investigation.judgement import CommonReason, Judgement
from etrm.investigation.own_model.batch_rows import can_join
from etrm.investigation.own_model.healthy_reference import REFERENCE
from etrm.investigation.own_model.hypotheses.inspected_hypothesis import OwnHypothesis, OwnModelSession
from etrm.investigation.own_model.loss_probe import LossProbe
from etrm.investigation.own_model.model_under_test import ModelUnderTest
from etrm.investigation.own_model.short_runs import (
    BATCHES,
    FEWEST_SEEDS,
    LONGER,
    MUCH_LONGER,
    PATIENT,
    SMALLEST_EFFECT,
    ShortRun,
    ShortRuns,
    describe_gain,
    frame_losses,
)
from etrm.investigation.own_model.training_trial import UNCHANGED, TrainingChange
from etrm.investigation.records import Arm, ControlOutcome, Verdict
from etrm.investigation.result import HypothesisResult

LOWERED = TrainingChange("rate-lowered", "every learning rate times 0.000001", rate=1e-6)
"""The fault of the positive control: too low also where the user's rates are a thousand times too high."""
SCALE = 2.0
"""Largest factor between a step's loss and the mean of its rows that dropout or a regulariser may explain."""
GAIN = Metric("own.dynamics-loss", "training loss: {item}", Direction.LOWER)


class TrainingChangeReason(StrEnum):
    """What the changes of the training show."""

    CHANGE_GAINS = "own.change-gains"
    NO_CHANGE_GAINS = "own.no-change-gains"


class OwnDynamics(OwnHypothesis):
    """H4 of an own model."""

    next_step = "Make the change that page H4 names, then run the same command again."
    statement = Statement(
        id="H4",
        title="Training dynamics",
        statement="The training dynamics prevent learning.",
        refuted_by=(
            "No single change of the learning rates, clipping, schedule or batch size reaches twice the reduction of "
            f"the loss that the unchanged run reaches in {LONGER} times the steps, for a higher rate in {MUCH_LONGER}."
        ),
        mechanism=(
            "Rates that are far too high or too low, gradient spikes, or a warm-up that never ends keep the model from "
            "changing, or from staying where the loss is low."
        ),
        kind="statistical",
        would_change="A change that gains more than the smallest effect over five seeds, or longer runs.",
    )

    def find_missing(self, subject: ModelUnderTest) -> str:
        """An optimiser that holds no weights cannot be changed."""
        return (
            "" if any(p.requires_grad for p in subject.model.parameters()) else "no weight takes a gradient"
        )

    def decide(self, session: OwnModelSession) -> HypothesisResult:
        """Run the changes of the model under test and of the healthy one, and the positive control."""
        began = time.perf_counter()
        changes = list_changes(session.subject)
        runs, comparison = run_changes(session.runs, changes, lambda d, t: session.progress("H4", d, t + 2))
        controls: tuple[ControlOutcome, ...] = ()
        if len(session.short_seeds) >= FEWEST_SEEDS:
            controls = _judge_healthy(session.healthy_runs), _judge_lowered(session.runs, runs)
        session.progress("H4", len(changes) + 2, len(changes) + 2)
        judgement = judge_changes(comparison, controls)
        judgement = replace(judgement, sentence=judgement.sentence + describe_scale(session.subject))
        own = [run for arm in runs for run in arm]
        return self.statement.decided(
            judgement,
            screening=len(session.short_seeds) < FULL_SEEDS,
            p_value=comparison.p_value,
            arms=tuple(_describe_arms(changes, patient=len(runs) > len(changes) + 1)),
            runs=tuple(run.record() for run in (*own, *(session.runs.run(LOWERED) if controls else ()))),
            evidence=tuple(
                contrast.row(
                    GAIN, f"gains less than {SMALLEST_EFFECT:g} of the reduction", decision.ruled_out
                )
                for contrast, decision in zip(comparison.contrasts, comparison.decisions, strict=True)
            ),
            controls=controls,
            figures=(frame_losses(own),),
            series=tuple(run.curve() for run in own),
            wall_s=round(time.perf_counter() - began, 1),
        )


def describe_scale(subject: ModelUnderTest) -> str:
    """A sentence about a step's loss that is another than the mean of the rows; nothing if it is about the mean.

    A constant factor is no fault by itself, because it may be meant, and some optimisers undo it.
    """
    if subject.sample_losses is None:
        return ""
    probe, batch = LossProbe(subject), subject.batch(0)
    whole, mean = probe.step_loss(batch, unmixed=True), float(probe.sample_losses(batch).mean())
    if not (0 < whole < inf and 0 < mean < inf) or 1 / SCALE <= whole / mean <= SCALE:
        return ""
    return f" The loss of a step is {whole / mean:.2g} times the mean of the sample losses."


def list_changes(subject: ModelUnderTest) -> list[TrainingChange]:
    """The changes that the adapter allows."""
    found = [
        *(
            TrainingChange(f"rate-x{factor:g}", f"every learning rate times {factor:g}", rate=factor)
            for factor in (0.01, 0.1, 10.0, 100.0)  # a rate that is a hundred times wrong is a common mistake
        ),
        TrainingChange("clip-1", "gradients clipped to norm 1", clip_norm=1.0),
    ]
    if can_join([subject.batch(number) for number in range(BATCHES)]):
        found.append(TrainingChange("batch-x2", "two batches joined to one", joined=2))
    if subject.context_module and any(
        True for _ in subject.model.get_submodule(subject.context_module).parameters()
    ):
        found.append(
            TrainingChange("context-rate-x0.1", "rates of the context module times 0.1", context_rate=0.1)
        )
    if subject.schedule is not None:
        found.append(TrainingChange("no-schedule", "constant learning rates", scheduled=False))
    if subject.clip_norm is not None:
        found.append(TrainingChange("no-clipping", "unclipped gradients", clipped=False))
    return found


def run_changes(
    runs: ShortRuns,
    changes: Sequence[TrainingChange],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[list[ShortRun]], TreatmentComparison]:
    """The unchanged runs, those of each change, and what they gain.

    A higher rate that gains is compared again, with unchanged runs that are much longer.
    """
    arms = [runs.run(length=LONGER)]
    for done, change in enumerate(changes):
        progress(done, len(changes))
        arms.append(runs.run(change))
    comparison = _compare(runs, changes, arms, arms[0])
    higher = [change.rate > 1 for change in changes]
    if any(raised and found.gained for raised, found in zip(higher, comparison.decisions, strict=True)):
        arms.append(runs.run(UNCHANGED, length=MUCH_LONGER, name=PATIENT))
        comparison = _compare(runs, changes, arms, arms[-1])
    return arms, comparison


def _compare(
    runs: ShortRuns,
    changes: Sequence[TrainingChange],
    arms: Sequence[list[ShortRun]],
    of_higher_rates: list[ShortRun],
) -> TreatmentComparison:
    """The gain of each change over the first arm, or over another one where it is a higher rate."""
    return compare_treatments(
        [
            runs.contrast(change.name, change.what, of_higher_rates if change.rate > 1 else arms[0], arm)
            for change, arm in zip(changes, arms[1:], strict=False)
        ]
    )


def judge_changes(comparison: TreatmentComparison, controls: Sequence[ControlOutcome] = ()) -> Judgement:
    """The verdict on some changes."""
    if broken := broken_controls(controls):
        return Judgement(Verdict.ERROR, (CommonReason.CONTROLS_MISBEHAVED,), broken)
    best = comparison.best
    code = TrainingChangeReason.CHANGE_GAINS if comparison.gained else TrainingChangeReason.NO_CHANGE_GAINS
    fall = describe_gain(best)
    words = f"With {best.words}, {fall}"
    if not comparison.gained:
        words = f"No change helps enough. With the best one, {best.words}, {fall}"
    open_question = f"; {comparison.open_question}" if comparison.verdict is Verdict.INCONCLUSIVE else ""
    sentence = f"{words} ({format_seeds(len(best.effects))}){open_question}."
    return Judgement(comparison.verdict, (code,), sentence, comparison.candidate)


def _judge_healthy(runs: ShortRuns) -> ControlOutcome:
    """The healthy model: no change may gain."""
    _, comparison = run_changes(runs, list_changes(REFERENCE.build(0)))
    judgement = judge_changes(comparison)
    return control_outcome(HEALTHY, False, judgement, "a small healthy model of this project")


def _judge_lowered(runs: ShortRuns, arms: Sequence[Sequence[ShortRun]]) -> ControlOutcome:
    """The best way of training, with rates that are far too low: the reverse must gain."""
    best = min(arms, key=lambda arm: sum(run.end for run in arm))
    try:
        lowered = runs.run(LOWERED)
        contrast = runs.contrast("rate-restored", "the best of the other runs", lowered, best)
        judgement = judge_changes(compare_treatments([contrast]))
    except EtrmError as error:
        judgement = Judgement(Verdict.ERROR, (CommonReason.SUBJECT_NOT_BUILT,), error.brief)
    return control_outcome(LOWERED.name, True, judgement, f"the model under test, {LOWERED.what}")


def _describe_arms(changes: Sequence[TrainingChange], *, patient: bool) -> Iterator[Arm]:
    yield Arm(name="short-unchanged", role="control", difference=f"unchanged, {LONGER} times as many steps")
    if patient:
        difference = f"unchanged, {MUCH_LONGER} times as many steps"
        yield Arm(name=f"short-{PATIENT}", role="control", difference=difference)
    for change in changes:
        yield Arm(name=f"short-{change.name}", role="treatment", difference=change.what)
    yield Arm(
        name=f"short-{LOWERED.name}", role="positive control", difference=LOWERED.what, faults=(LOWERED.name,)
    )

"""H2: the encoder, or a learned predicate, does not receive its gradients, or does not move.

Mechanistic: decided by an assertion on every step of every seed, without statistics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from math import isfinite

from etrm.config import Config, with_settings
from etrm.investigation.comparison.gradient_check import LIKE, SlopeCheck, check_slope
from etrm.investigation.comparison.screening import shorten_run
from etrm.investigation.controls import (
    broken_controls,
    control_arm,
    control_outcome,
    inspected_arms,
    subject_arm,
)
from etrm.investigation.evidence.table import Direction, EvidenceRow, Instrument, Metric
from etrm.investigation.evidence.words import capitalise, format_seeds
from etrm.investigation.hypotheses import symbolic_controls
from etrm.investigation.hypotheses.gradient_figures import FIGURES, make_curves
from etrm.investigation.hypotheses.hypothesis import Hypothesis, Statement
from etrm.investigation.hypotheses.inspection import judge_inspection
from etrm.investigation.judgement import CommonReason, Judgement
from etrm.investigation.measurements.encoder_gradients import (
    GradientFacts,
    follows_replaced_weights,
    gather,
)
from etrm.investigation.measurements.left_out_rows import count_left_out_rows
from etrm.investigation.measurements.predicate_gradients import PredicateReason, make_predicate_rows
from etrm.investigation.measurements.run_findings import group_serious
from etrm.investigation.measurements.unread_weights import count_unread_weights
from etrm.investigation.records import Arm, ControlOutcome, InstrumentCheck, NotMeasured, Run, Value, Verdict
from etrm.investigation.result import HypothesisResult
from etrm.investigation.runs.jobs import Job
from etrm.investigation.runs.loaded_run import LoadedRun, Metrics, records_of
from etrm.investigation.session import Investigation, with_seed

STATEMENT = Statement(
    id="H2",
    title="Encoder gradients",
    statement="The encoder, or a learned predicate, does not receive its gradients, or does not move.",
    refuted_by=(
        "On every step of every seed, the loss of every sample has a gradient through the encoder, every trainable "
        "encoder tensor receives a gradient, and every such tensor changes; learned predicates are weights of the "
        "model, and each of their tensors receives a gradient and changes on some step."
    ),
    mechanism=(
        "If the context is cached and detached, computed without a graph, or frozen, only a few samples or none "
        "train the encoder. If an optimiser step is skipped, the encoder does not move although gradients arrive. "
        "A number read from a tensor, an argmax, or a formula that is always true stops the gradient. "
        "The loss still falls, because the decoder learns without the encoder."
    ),
    kind="mechanistic",
    would_change=(
        "One step on which a sample has no gradient through the encoder, or a trainable encoder tensor has no "
        "gradient or does not move."
    ),
)
STEPS = 18
"""Steps per seed in which the encoder trains, or the whole run where it is shorter: with four ACT steps every row
starts five times, with sixteen twice. More would repeat these, and a structural cause should be named in a minute."""
PREDICATE_FAULTS = ("predicates-item", "tautology-guard")
"""Faults that must be found where the run under test learns predicates: no gradient, and one that is zero."""
STUDY = STATEMENT.id.lower()


class RunReason(StrEnum):
    """The reason why the steps cannot be judged."""

    NOT_FINITE = "h2.numbers-not-finite"


class EncoderGradients(Hypothesis):
    """H2."""

    statement = STATEMENT
    precedence = 40
    controls = ("cached-context", "encoder-frozen", "freeze-skips-optimizer")
    next_step = (
        "Restore the gradients of the encoder first: look for a cache, a detach, a no_grad, a frozen module or a "
        "skipped optimiser at the place that page H2 names, then run the same command again."
    )

    def arms(self, investigation: Investigation) -> tuple[Arm, ...]:
        """The run under test and the controls."""
        predicates = symbolic_controls.describe_arms(STUDY, PREDICATE_FAULTS)
        inspected = inspected_arms(STUDY, investigation.subject, self.controls)
        return (*inspected, *predicates) if investigation.effective.model.learns_predicates else inspected

    def decide(self, investigation: Investigation) -> HypothesisResult:
        """Run the config under test and the controls, and judge their steps."""
        if reason := _explain_not_applicable(investigation.subject):
            return self.not_run(CommonReason.NOT_APPLICABLE, reason)
        own_encoder = investigation.subject.model.own_encoder
        subject_jobs = plan_jobs(investigation)
        control_jobs = [
            Job(control_arm(STUDY, fault), 0, investigation.control_config(faults), shared=True)
            for fault, faults in (("", ()), *((name, (name,)) for name in self.controls))
        ]
        predicates = investigation.effective.model.learns_predicates
        predicate_jobs = symbolic_controls.plan_jobs(STUDY, PREDICATE_FAULTS, STEPS) if predicates else []
        runs = investigation.run(self.id, [*subject_jobs, *control_jobs, *predicate_jobs])
        subject_runs, control_runs = runs[: len(subject_jobs)], runs[len(subject_jobs) :]
        facts = gather(
            [m for run in subject_runs for m in run.metrics],
            predicates=predicates,
            own_encoder=own_encoder,
        )
        if facts.uncovered_steps and investigation.subject.model.own_variant:
            facts = _allow_left_out_rows(investigation, facts)
        unread = 0
        # An encoder from outside may have such weights in some steps only.
        if facts.dead_tensors and not own_encoder and investigation.subject.model.recursive:
            unread = count_unread_weights(investigation.subject)
            facts = replace(facts, dead_tensors=max(0, facts.dead_tensors - unread))
        what = {arm.name: arm.difference for arm in symbolic_controls.describe_arms(STUDY, PREDICATE_FAULTS)}
        controls = [_judge_control(run, what.get(run.arm.name, "")) for run in control_runs]
        # No further inspection where the steps decide already: a structural cause should be named soon.
        known = bool(facts.steps) and facts.holds and not own_encoder
        slopes, _ = (
            ([], "") if known else investigation.inspect_seeds(self.id, investigation.subject, check_slope)
        )
        steepest = max((found for found in slopes if found), key=lambda found: found.holds, default=None)
        if steepest is not None and not steepest.tensors and not steepest.outside:
            return self.not_run(CommonReason.NOT_APPLICABLE, "The encoder has no parameters.")
        judgement = judge_steps(facts, steepest, subject_runs, controls)
        return self.statement.decided(
            judgement,
            explained_by=_find_explanation(investigation, judgement, controls, subject_runs),
            arms=self.arms(investigation),
            runs=(*map(_add_gradient_finals, subject_runs), *records_of(control_runs)),
            evidence=(
                *_make_step_rows(facts, len(subject_runs), unread),
                *_make_slope_rows(steepest, len(slopes)),
                *_make_finding_rows(subject_runs),
            ),
            controls=tuple(controls),
            instruments=_check_instruments(investigation, subject_runs, facts),
            figures=FIGURES,
            series=tuple(make_curves(subject_runs, control_runs)),
            wall_s=round(sum(run.record.wall_s for run in runs), 1),
        )


def _allow_left_out_rows(investigation: Investigation, facts: GradientFacts) -> GradientFacts:
    """The facts without uncovered steps, if the variant leaves contexts out at random and that is why."""
    found, _ = investigation.inspect_seeds(
        STATEMENT.id, investigation.subject, count_left_out_rows, investigation.seeds[:1]
    )
    rows = facts.steps * investigation.subject.train.batch_size
    coverage = facts.coverage_mean
    if isinstance(coverage, float) and found and found[0].explains(coverage, rows):
        return replace(facts, uncovered_steps=0, left_out=found[0].share)
    return facts


def _explain_not_applicable(subject: Config) -> str:
    """The reason why the hypothesis does not apply, or nothing."""
    if not subject.model.has_encoder:
        return "The model is a TRM: it has no encoder."
    if subject.train.freeze_encoder_steps >= subject.train.steps:
        return "The settings freeze the encoder for the whole run."
    return ""


def _find_explanation(
    investigation: Investigation,
    judgement: Judgement,
    controls: Sequence[ControlOutcome],
    runs: Sequence[LoadedRun],
) -> str | None:
    """The other hypothesis whose fault would make this one hold, or its runs fail, without a fault of gradients.

    What never reaches the decoder by value has no gradient either. Demonstrations that the encoder does not read are
    no reason for predicates without gradient, because the query is answered by these too.
    """
    if judgement.verdict is Verdict.INVALIDATED or broken_controls(controls):
        return None
    predicates = any(code in judgement.codes for code in PredicateReason)
    if any(found.dropped if predicates else found.lost for found in investigation.first_context_trace):
        return "H3"
    own = investigation.subject.model.own_encoder
    diverged = judgement.verdict is Verdict.ERROR
    if diverged or (
        not predicates and follows_replaced_weights([run.metrics for run in runs], own_encoder=own)
    ):
        return "H4"
    return None


def plan_jobs(investigation: Investigation) -> list[Job]:
    """The first steps of the run under test, with each seed; none where the hypothesis does not apply."""
    subject = investigation.subject
    if _explain_not_applicable(subject):
        return []
    return [Job(subject_arm(STUDY), seed, _shorten(subject, seed)) for seed in investigation.seeds]


def _shorten(subject: Config, seed: int) -> Config:
    short = shorten_run(subject, subject.train.freeze_encoder_steps + STEPS)
    return with_seed(with_settings(short, monitor={"layers": True}), seed)


def judge_steps(
    facts: GradientFacts,
    steepest: SlopeCheck | None,
    runs: Sequence[LoadedRun],
    controls: Sequence[ControlOutcome],
) -> Judgement:
    """The verdict that the steps, and the slope of the first one, give.

    Args:
        facts: the steps of all runs.
        steepest: the worst slope of any seed, where it was measured.
        runs: the runs under test.
        controls: outcomes of the controls.
    """
    if broken := broken_controls(controls):
        return Judgement(Verdict.ERROR, (CommonReason.CONTROLS_MISBEHAVED,), broken)
    scope = f"({format_seeds(len(runs))})"
    if facts.steps and facts.holds:
        return judge_inspection(facts, f"{capitalise(facts.words)} {scope}.")
    if steepest is not None and steepest.holds:
        return judge_inspection(steepest, f"{capitalise(steepest.words)} {scope}.")
    if failed := [run for run in runs if run.failed]:
        words = f"{len(failed)} of {len(runs)} runs failed: {failed[0].reason}"
        return Judgement(Verdict.ERROR, (CommonReason.RUNS_FAILED,), words)
    if not facts.finite:
        words = f"Some logged numbers were not finite {scope}."
        return Judgement(Verdict.ERROR, (RunReason.NOT_FINITE,), words)
    words = capitalise(facts.words)
    if steepest is not None and steepest.meant:
        words += f"; the encoder itself freezes {steepest.meant} of its {steepest.tensors} tensors, which counts as "
        words += "intended"
    return judge_inspection(facts, f"{words} {scope}.")


def _judge_control(run: LoadedRun, what: str) -> ControlOutcome:
    """The outcome of a control; ``what`` describes one that learns predicates, and is empty for others."""
    facts = gather(run.metrics, predicates=bool(what))
    found = judge_inspection(facts, facts.words)
    if run.failed or not facts.steps:
        found = Judgement(Verdict.ERROR, (CommonReason.RUNS_FAILED,), run.reason)
    return control_outcome(run.arm.control, run.arm.role == "positive control", found, what)


COVERAGE_LOWEST = Metric("h2.coverage-lowest", "encoder coverage, lowest step", Direction.HOLDS)
UNCOVERED_STEPS = Metric("h2.uncovered-steps", "steps with coverage below 1", Direction.HOLDS)
COVERAGE_MEAN = Metric("h2.coverage-mean", "encoder coverage, mean")
RESET_SHARE = Metric("h2.reset-share", "share of rows that reset, mean")
WITHOUT_GRADIENT = Metric("h2.steps-without-gradient", "steps without encoder gradient", Direction.HOLDS)
WITHOUT_MOVEMENT = Metric(
    "h2.steps-without-movement", "steps on which the encoder does not move", Direction.HOLDS
)
IDLE_TENSORS = Metric(
    "h2.idle-tensors", "encoder tensors without gradient or movement, worst step", Direction.HOLDS
)
GRADIENT_LOWEST = Metric("h2.gradient-lowest", "encoder gradient norm before clipping, lowest")
MOVEMENT_LOWEST = Metric("h2.movement-lowest", "relative movement of the encoder, lowest")
WASTE_HIGHEST = Metric("h2.waste-highest", "encoder rows on which no loss depends, highest share")
CALLS = Metric("h2.calls", "encoder calls per step, mean")
CALLS_WITH_GRADIENT = Metric("h2.calls-with-gradient", "encoder calls with gradient per step, mean")


def _make_step_rows(facts: GradientFacts, seeds: int, unread: int = 0) -> tuple[EvidenceRow, ...]:
    n = f"{facts.steps} steps of {format_seeds(seeds)}"
    lowest_coverage = COVERAGE_LOWEST.row(
        facts.coverage_low,
        threshold="= 1.00 on every step",
        passed=facts.uncovered_steps == 0,
        n=n,
        note="share of the samples of a batch whose loss has a gradient through what the encoder computed"
        + f"; the variant leaves out {facts.left_out:.0%} at random" * bool(facts.left_out),
    )
    must_be_none = (
        UNCOVERED_STEPS.row(facts.uncovered_steps, threshold="0", passed=not facts.uncovered_steps, n=n),
        WITHOUT_GRADIENT.row(facts.without_gradient, threshold="0", passed=not facts.without_gradient, n=n),
        WITHOUT_MOVEMENT.row(facts.without_movement, threshold="0", passed=not facts.without_movement, n=n),
        IDLE_TENSORS.row(
            facts.dead_tensors,
            threshold="0",
            passed=not facts.dead_tensors,
            n=n,
            note=f"without {unread} on which no context of the training queries depends" if unread else "",
        ),
    )
    return (
        lowest_coverage,
        *must_be_none,
        *(make_predicate_rows(facts.predicates) if facts.predicates else ()),
        COVERAGE_MEAN.row(facts.coverage_mean, threshold="compare with the share of rows that reset", n=n),
        RESET_SHARE.row(facts.reset_share, threshold="context", n=n),
        GRADIENT_LOWEST.row(facts.gradient_low, threshold="> 0", n=n),
        MOVEMENT_LOWEST.row(facts.moved_low, threshold="> 0", n=n, note="norm of the change / norm"),
        WASTE_HIGHEST.row(facts.waste_high, threshold="0 is best", n=n),
        CALLS.row(facts.calls, threshold="context", n=n),
        CALLS_WITH_GRADIENT.row(facts.calls_with_grad, threshold="context", n=n),
    )


GRADIENT_OVER_SLOPE = Metric(
    "h2.gradient-over-slope", "encoder gradient divided by the finite-difference slope", Direction.HOLDS
)
FROZEN_TENSORS = Metric("h2.frozen-tensors", "encoder tensors that take no gradient", Direction.HOLDS)
IN_NO_OPTIMIZER = Metric(
    "h2.tensors-in-no-optimizer",
    "tensors for which the loss has a gradient and that no optimiser updates",
    Direction.HOLDS,
)


def _find_ratio(steepest: SlopeCheck | None, seeds: int) -> Value:
    """The gradient over the slope, or why it is not measured."""
    if steepest is None:
        return NotMeasured(
            absent="the first step has no finite loss"
            if seeds
            else "not needed, because the steps decide already"
        )
    if steepest.ratio is None:
        return NotMeasured(absent="a step along the gradient changes the loss by no more than rounding")
    if not isfinite(steepest.ratio):
        return NotMeasured(absent="the loss does not change along the gradient")
    return steepest.ratio


def _make_slope_rows(steepest: SlopeCheck | None, seeds: int) -> tuple[EvidenceRow, ...]:
    n = f"first step of {format_seeds(seeds)}, worst"
    row = GRADIENT_OVER_SLOPE.row(
        _find_ratio(steepest, seeds),
        control=1.0,
        threshold=f"within {LIKE[0]:g} and {LIKE[1]:g}",
        passed=None if steepest is None or steepest.ratio is None else steepest.agrees,
        n=n,
        note="slope of the loss along the gradient, of one cycle only: the other cycles have no gradient by design",
    )
    if steepest is None:
        return (row,)
    return (
        row,
        FROZEN_TENSORS.expect_none(
            steepest.frozen,
            n,
            threshold=f"0 of {steepest.tensors}",
            note=f"without {steepest.meant} that the encoder freezes itself" if steepest.meant else "",
        ),
        IN_NO_OPTIMIZER.expect_none(steepest.outside, n),
    )


TOOLKIT_FINDING = Metric("h2.toolkit-finding", "toolkit finding {item}")


def _make_finding_rows(runs: Sequence[LoadedRun]) -> tuple[EvidenceRow, ...]:
    """The toolkit's findings in the runs under test, notes left out; they decide nothing here."""
    grouped = group_serious(finding for run in runs for finding in run.findings)
    having = Counter(group for run in runs for group in group_serious(run.findings))
    return tuple(
        TOOLKIT_FINDING.row(
            found[0]["evidence"]["value"],
            item=f"{rule} {module}".rstrip(),
            item_words=f"{rule} in {module or 'the model'}: {found[0]['evidence']['metric']}",
            threshold=f"{having[rule, module]} of {len(runs)} seeds, {found[0]['severity']}",
            n=f"steps {found[0]['evidence']['first_step'] + 1} to {found[0]['evidence']['last_step'] + 1}",
            note=f"{found[0]['message']}. Likely cause: {found[0]['cause']}. What to do: {found[0]['remedy']}",
        )
        for (rule, module), found in grouped.items()
    )


CORE_COVERAGE = Instrument("h2.core-coverage", "the core, through which every sample goes, has coverage 1")
CLIPPING = Instrument("h2.clipping", "norms before and after clipping differ exactly by the clipping factor")
FINITE_NUMBERS = Instrument("h2.finite-numbers", "every logged number is finite")


def _check_instruments(
    investigation: Investigation, runs: Sequence[LoadedRun], facts: GradientFacts
) -> tuple[InstrumentCheck, ...]:
    metrics = [m for run in runs for m in run.metrics]
    core = [m.get("core.coverage") for m in metrics]
    compared, wrong = _compare_clipping(metrics, investigation.subject.train.clip_norm)
    none = "no step can be compared: no optimiser step had a gradient"
    return (
        CORE_COVERAGE.check(
            all(value == 1 for value in core) and bool(core),
            f"{sum(value == 1 for value in core)} of {len(core)} steps",
        ),
        CLIPPING.check(
            not wrong if compared else None, f"{compared - wrong} of {compared} steps" if compared else none
        ),
        FINITE_NUMBERS.check(facts.finite, f"{len(metrics)} steps"),
    )


def _compare_clipping(metrics: Metrics, limit: float | None) -> tuple[int, int]:
    """The number of steps with both norms of the encoder, and of those where their ratio is not the clipping factor."""
    compared = wrong = 0
    for m in metrics:
        before, after = m.get("encoder.grad_norm_pre_clip"), m.get("encoder.grad_norm_post_clip")
        if not before or after is None:
            continue
        total = m.get("grad_norm_before_clip")
        factor = 1.0 if limit is None or total is None else min(1.0, limit / (total + 1e-6))
        compared += 1
        wrong += abs(after / before - factor) > 1e-3
    return compared, wrong


def _add_gradient_finals(run: LoadedRun) -> Run:
    facts = gather(run.metrics)
    extra: dict[str, Value] = {
        "encoder_coverage_lowest": facts.coverage_low,
        "steps_without_encoder_movement": float(facts.without_movement),
    }
    return run.record.replace(final=run.record.final | extra)


HYPOTHESIS = EncoderGradients()

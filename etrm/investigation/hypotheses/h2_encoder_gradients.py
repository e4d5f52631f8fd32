"""H2: the encoder does not get the gradients, or does not move.

Mechanistic: decided by assertion on every step of every seed, with no statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from math import isfinite
from typing import Any

from etrm.config import Config
from etrm.investigation.comparison.gradient_check import LIKE, Slope, slope
from etrm.investigation.evidence import Instrument, Metric
from etrm.investigation.hypotheses.structural_verdict import judgement, sentence
from etrm.investigation.measurements.encoder_gradients import Facts, gather
from etrm.investigation.measurements.run_findings import serious, written
from etrm.investigation.protocol import (
    CommonReason,
    Investigation,
    Judgement,
    Statement,
    broken_controls,
    control_arms,
    control_outcome,
    not_run,
    seeded,
    seeds_in_words,
    series,
    so_far,
)
from etrm.investigation.result import (
    Absent,
    ControlOutcome,
    Direction,
    Evidence,
    Figure,
    Hypothesis,
    InstrumentCheck,
    Run,
    Series,
    Value,
    Verdict,
)
from etrm.investigation.runs.jobs import Job

STATEMENT = Statement(
    id="H2",
    title="Encoder gradients",
    statement="The encoder does not get the gradients, or does not move.",
    refuted_by=(
        "On every step of every seed the loss of every sample sends a gradient through the encoder, every "
        "trainable encoder tensor receives one, and every one of them changes."
    ),
    mechanism=(
        "A context that is cached and detached, computed without a graph, or frozen lets only a few samples, or "
        "none, train the encoder; an optimiser that is skipped leaves it where it is although gradients arrive. "
        "The loss still falls, because the decoder learns without the encoder."
    ),
    kind="mechanistic",
    would_change=(
        "One step on which a sample sends no gradient through the encoder, or on which a trainable encoder tensor "
        "has no gradient or does not move."
    ),
)
STEPS = 18
"""Steps of the subject per seed in which its encoder trains, or the whole run where it is shorter: at four ACT steps
every row begins five times, at sixteen twice. More would only repeat them, and a structural cause is to be named in a
minute."""

POSITIVE = ("cached-context", "encoder-frozen", "freeze-skips-optimizer")


class RunReason(StrEnum):
    """Why the steps cannot be judged."""

    NOT_FINITE = "h2.numbers-not-finite"


def decide(investigation: Investigation) -> Hypothesis:
    """Run the subject and the controls, and say what the steps show."""
    if investigation.subject.model.variant == "trm":
        words = "The subject is a TRM: it has no encoder."
        return not_run(STATEMENT, CommonReason.NOT_APPLICABLE, words)
    if investigation.subject.train.freeze_encoder_steps >= investigation.subject.train.steps:
        words = "The subject's own settings freeze the encoder for the whole run."
        return not_run(STATEMENT, CommonReason.NOT_APPLICABLE, words)
    subject_jobs = [Job("h2-subject", seed, _subject(investigation, seed)) for seed in investigation.seeds]
    control_jobs = [Job("h2-healthy", 0, investigation.control_config(), shared=True)]
    control_jobs += [
        Job(f"h2-{name}", 0, investigation.control_config([name]), shared=True) for name in POSITIVE
    ]
    runs = investigation.run("H2", [*subject_jobs, *control_jobs])
    subject_runs, control_runs = runs[: len(subject_jobs)], runs[len(subject_jobs) :]

    failed = [run for run in subject_runs if run.state == "failed"]
    per_seed = [gather(investigation.metrics(run)) for run in subject_runs]
    facts = gather([m for run in subject_runs for m in investigation.metrics(run)])
    controls = [_control(investigation, run) for run in control_runs]
    # What the steps show already needs no further look: a structural cause is to be named soon.
    known = bool(facts.steps) and facts.holds
    slopes, _ = ([], "") if known else investigation.each_seed("H2", investigation.subject, slope)
    steepest = max((found for found in slopes if found), key=lambda found: found.holds, default=None)
    found = _judged(facts, steepest, failed, controls, len(subject_runs))
    return STATEMENT.decided(
        found,
        explained_by=_explanation(investigation, found.verdict, controls),
        arms=control_arms("h2", investigation.subject, POSITIVE),
        runs=tuple(_with_facts(run, f) for run, f in zip(subject_runs, per_seed, strict=True))
        + tuple(control_runs),
        evidence=_evidence(facts, len(subject_runs))
        + _slope(steepest, len(slopes))
        + _toolkit(investigation, subject_runs),
        controls=tuple(controls),
        instruments=_instruments(investigation, subject_runs, facts),
        figures=FIGURES,
        series=tuple(_series(investigation, subject_runs, control_runs)),
        wall_s=round(sum(run.wall_s for run in runs), 1),
    )


def _explanation(
    investigation: Investigation, verdict: Verdict, controls: Sequence[ControlOutcome]
) -> str | None:
    """What could make this hypothesis hold, or its runs fail, without being about gradients."""
    if verdict is Verdict.INVALIDATED or broken_controls(controls):
        return None
    if any(found.lost for found in investigation.first_passage):
        return "H3"  # what never reaches the decoder, by value, has no gradient either
    return "H4" if verdict is Verdict.ERROR else None  # runs that diverged


def _subject(investigation: Investigation, seed: int) -> Config:
    subject = investigation.subject
    steps = min(subject.train.freeze_encoder_steps + STEPS, subject.train.steps)
    warmup = min(subject.train.warmup_steps, steps)
    return seeded(subject, seed, f"train.steps={steps}", f"train.warmup_steps={warmup}")


def _judged(
    facts: Facts, steepest: Slope | None, failed: list[Run], controls: Sequence[ControlOutcome], seeds: int
) -> Judgement:
    if broken := broken_controls(controls):
        return Judgement(Verdict.ERROR, (CommonReason.CONTROLS_MISBEHAVED,), broken)
    scope = f"({seeds_in_words(seeds)})"
    if facts.steps and facts.holds:
        return judgement(facts, f"{sentence(facts)} {scope}.")
    if steepest is not None and steepest.holds:
        return judgement(steepest, f"{sentence(steepest)} {scope}.")
    if failed:
        words = f"{len(failed)} of {seeds} subject runs failed: {failed[0].reason}"
        return Judgement(Verdict.ERROR, (CommonReason.RUNS_FAILED,), words)
    if not facts.finite:
        words = f"Some logged numbers were not finite {scope}."
        return Judgement(Verdict.ERROR, (RunReason.NOT_FINITE,), words)
    return judgement(facts, f"{sentence(facts)} {scope}.")


def _control(investigation: Investigation, run: Run) -> ControlOutcome:
    name = run.arm.removeprefix("h2-")
    facts = gather(investigation.metrics(run))
    found = judgement(facts, facts.words)
    if run.state == "failed" or not facts.steps:
        found = Judgement(Verdict.ERROR, (CommonReason.RUNS_FAILED,), run.reason)
    return control_outcome(name, name in POSITIVE, found)


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
WASTE_HIGHEST = Metric("h2.waste-highest", "encoder rows computed for nothing, highest share")
CALLS = Metric("h2.calls", "encoder calls per step, mean")
CALLS_WITH_GRADIENT = Metric("h2.calls-with-gradient", "of these with gradient, mean")


def _evidence(facts: Facts, seeds: int) -> tuple[Evidence, ...]:
    n = f"{facts.steps} steps of {seeds_in_words(seeds)}"

    def none_of(metric: Metric, count: int) -> Evidence:
        return metric.row(count, threshold="0", passed=count == 0, n=n)

    return (
        COVERAGE_LOWEST.row(
            facts.coverage_low,
            threshold="= 1.00 on every step",
            passed=facts.uncovered_steps == 0,
            n=n,
            note="share of the batch's samples whose loss has a gradient through what the encoder computed",
        ),
        none_of(UNCOVERED_STEPS, facts.uncovered_steps),
        COVERAGE_MEAN.row(facts.coverage_mean, threshold="compare with the share of rows that reset", n=n),
        RESET_SHARE.row(facts.reset_share, threshold="context", n=n),
        none_of(WITHOUT_GRADIENT, facts.without_gradient),
        none_of(WITHOUT_MOVEMENT, facts.without_movement),
        none_of(IDLE_TENSORS, facts.dead_tensors),
        GRADIENT_LOWEST.row(facts.gradient_low, threshold="> 0", n=n),
        MOVEMENT_LOWEST.row(facts.moved_low, threshold="> 0", n=n, note="norm of the change / norm"),
        WASTE_HIGHEST.row(facts.waste_high, threshold="0 is best", n=n),
        CALLS.row(facts.calls, threshold="context", n=n),
        CALLS_WITH_GRADIENT.row(facts.calls_with_grad, threshold="context", n=n),
    )


GRADIENT_OVER_SLOPE = Metric(
    "h2.gradient-over-slope", "encoder gradient over the slope of the loss along it", Direction.HOLDS
)
FROZEN_TENSORS = Metric("h2.frozen-tensors", "encoder tensors that take no gradient", Direction.HOLDS)


def _slope(steepest: Slope | None, seeds: int) -> tuple[Evidence, ...]:
    ratio: Value = Absent(
        absent="the first step has no finite loss" if seeds else "not asked, for the steps decide already"
    )
    if steepest is not None and isfinite(steepest.ratio):
        ratio = steepest.ratio
    n = f"first step of {seeds_in_words(seeds)}, worst"
    row = GRADIENT_OVER_SLOPE.row(
        ratio,
        control=1.0,
        threshold=f"within {LIKE[0]:g} and {LIKE[1]:g}",
        passed=None if isinstance(ratio, Absent) else LIKE[0] <= ratio <= LIKE[1],
        n=n,
        note="by differences of the loss, of one cycle, for the others have no gradient by design",
    )
    if steepest is None:
        return (row,)
    frozen = FROZEN_TENSORS.row(
        steepest.frozen,
        control=0.0,
        threshold=f"0 of {steepest.tensors}",
        passed=not steepest.frozen,
        n=n,
    )
    return row, frozen


TOOLKIT_FINDING = Metric("h2.toolkit-finding", "toolkit finding {item}")


def _toolkit(investigation: Investigation, runs: Sequence[Run]) -> tuple[Evidence, ...]:
    """What the toolkit's own rules say of the subject, notes left out; they decide nothing here."""
    grouped = serious(written(investigation.root, runs))
    return tuple(
        TOOLKIT_FINDING.row(
            found[0]["evidence"]["value"],
            item=f"{rule} {module}".rstrip(),
            item_words=f"{rule} in {module or 'the model'}: {found[0]['evidence']['metric']}",
            threshold=f"{len(found)} of {len(runs)} seeds, {found[0]['severity']}",
            n=f"steps {found[0]['evidence']['first_step']} to {found[0]['evidence']['last_step']}",
            note=f"{found[0]['message']}. Likely cause: {found[0]['cause']}. What to do: {found[0]['remedy']}",
        )
        for (rule, module), found in grouped.items()
    )


CORE_COVERAGE = Instrument("h2.core-coverage", "the core, which every sample passes, has coverage 1")
CLIPPING = Instrument("h2.clipping", "norms before and after clipping differ by just what clipping did")
FINITE_NUMBERS = Instrument("h2.finite-numbers", "every logged number is finite")


def _instruments(
    investigation: Investigation, runs: Sequence[Run], facts: Facts
) -> tuple[InstrumentCheck, ...]:
    metrics = [m for run in runs for m in investigation.metrics(run)]
    core = [m.get("core.coverage") for m in metrics]
    compared, wrong = _clipping(metrics, investigation.subject.train.clip_norm)
    none = "no step can be compared: the optimiser never stepped with a gradient"
    return (
        CORE_COVERAGE.check(
            all(value == 1 for value in core) and bool(core),
            f"{sum(value == 1 for value in core)} of {len(core)} steps",
        ),
        CLIPPING.check(
            bool(compared) and not wrong, f"{compared - wrong} of {compared} steps" if compared else none
        ),
        FINITE_NUMBERS.check(facts.finite, f"{len(metrics)} steps"),
    )


def _clipping(metrics: Sequence[dict[str, Any]], limit: float | None) -> tuple[int, int]:
    """Steps with both norms of the encoder, and those where their ratio is not the clipping factor."""
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


FIGURES = (
    Figure(
        key="h2-coverage",
        title="Encoder coverage per step",
        x_label="optimiser step",
        y_label="coverage (share of the batch)",
        caption=(
            "Share of the batch whose loss sends a gradient through the encoder. A healthy ETRM stays at 1; the "
            "control shows what a cached context does."
        ),
        y_range=(-0.03, 1.08),
    ),
    Figure(
        key="h2-reset",
        title="Encoder coverage so far, and rows that reset",
        x_label="optimiser step",
        y_label="mean over the steps so far (share of the batch)",
        caption=(
            "With a cached context the coverage falls to the share of rows that reset, and the two curves are one. "
            "A healthy ETRM stays at 1 however few rows reset."
        ),
        y_range=(-0.03, 1.08),
    ),
    Figure(
        key="h2-norms",
        title="Encoder gradient norm before and after clipping",
        x_label="optimiser step",
        y_label="L2 norm",
        caption="After clipping the norm says little about the gradient; before clipping it says whether one arrives.",
        y_log=True,
    ),
    Figure(
        key="h2-moved",
        title="Movement of the encoder per step",
        x_label="optimiser step",
        y_label="norm of the change / norm of the weights",
        caption="Zero means that gradients, if there are any, change nothing. Steps without movement are not drawn.",
        y_log=True,
    ),
)


def _series(investigation: Investigation, subject: Sequence[Run], controls: Sequence[Run]) -> list[Series]:
    curves = []
    for run in subject:
        metrics = investigation.metrics(run)
        moving = [m for m in metrics if m.get("encoder.moved")]
        curves += [
            series("h2-coverage", run, metrics, "encoder.coverage", "subject, coverage"),
            so_far(series("h2-reset", run, metrics, "encoder.coverage", "subject, coverage")),
            so_far(series("h2-reset", run, metrics, "reset_share", "subject, rows that reset")),
            series(
                "h2-norms",
                run,
                [m for m in metrics if m.get("encoder.grad_norm_pre_clip")],
                "encoder.grad_norm_pre_clip",
                "before clipping",
            ),
            series(
                "h2-norms",
                run,
                [m for m in metrics if m.get("encoder.grad_norm_post_clip")],
                "encoder.grad_norm_post_clip",
                "after clipping",
            ),
            series("h2-moved", run, moving, "encoder.moved", "encoder"),
            series("h2-moved", run, [m for m in metrics if m.get("core.moved")], "core.moved", "core"),
        ]
    for run in controls:
        if run.arm in ("h2-healthy", "h2-cached-context"):
            label, metrics = f"control: {run.arm.removeprefix('h2-')}", investigation.metrics(run)
            curves.append(series("h2-coverage", run, metrics, "encoder.coverage", label))
            curves.append(so_far(series("h2-reset", run, metrics, "encoder.coverage", label)))
    return curves


def _with_facts(run: Run, facts: Facts) -> Run:
    extra: dict[str, Value] = {
        "encoder_coverage_lowest": facts.coverage_low,
        "steps_without_encoder_movement": float(facts.without_movement),
    }
    return run.replace(final=run.final | extra)

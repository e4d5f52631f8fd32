"""H3: the context is not what the decoder expects.

Mechanistic where the context changes or is lost between encoder and decoder. Where only its size differs from that in
the training of the decoder, a sweep of the scale has to show that this raises the loss.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from etrm.investigation.comparison.context_scale import (
    LEVEL,
    LIKE,
    SizeReason,
    Sizes,
    Sweep,
    measure_sizes,
    sweep_scales,
)
from etrm.investigation.comparison.frozen_arms import SMALLEST_EFFECT, train_longer, train_with_frozen_decoder
from etrm.investigation.controls import broken_controls, inspected_arms
from etrm.investigation.evidence.table import Direction, Effect, EvidenceRow, Instrument, Metric
from etrm.investigation.evidence.words import capitalise, format_seeds
from etrm.investigation.hypotheses import symbolic_controls
from etrm.investigation.hypotheses.hypothesis import Hypothesis, Statement
from etrm.investigation.hypotheses.inspection import describe_scope, inspect_controls, judge
from etrm.investigation.judgement import CommonReason, Judgement
from etrm.investigation.measurements.context_path import PARTS, ROUNDING, SAME, ContextTrace, trace_context
from etrm.investigation.records import Arm, ControlOutcome, InstrumentCheck, NotMeasured, Verdict
from etrm.investigation.result import HypothesisResult
from etrm.investigation.runs.loaded_run import LoadedRun, records_of
from etrm.investigation.session import Investigation

STATEMENT = Statement(
    id="H3",
    title="Context interface",
    statement="The context is not what the decoder expects.",
    refuted_by=(
        "The decoder receives the context that the encoder computes, finite, of the right shape and for the right "
        "row; other demonstrations change its logits; and the context has the size of the decoder's own puzzle vectors "
        "(ratio of the root mean squares between 0.5 and 2), or rescaling it does not lower the loss by 0.05 nats, "
        "even after training the encoder three times as long."
    ),
    mechanism=(
        "A context of another scale, of another row, or replaced between encoder and decoder is noise to the decoder, "
        "which learns to ignore it."
    ),
    kind="mixed",
    would_change=(
        "A change of the context between encoder and decoder, or a scale that lowers the loss by the smallest effect "
        "that matters."
    ),
)
SYMBOLIC_FAULTS = ("context-ignored", "assignment-lost")
"""Faults that must be found where the run under test is a symbolic solver."""

NOTHING_REQUIRES_GRADIENT = "train.nothing-requires-gradient"
"""Code of the error of the trainer, where no part of the loss has a gradient."""


class ContextInterface(Hypothesis):
    """H3."""

    statement = STATEMENT
    precedence = 50
    controls = ("context-scale", "context-nan", "context-ignored", "context-collapsed")
    next_step = (
        "Check the code between encoder and decoder: page H3 names the factor by which the context changes, or the "
        "rows that it depends on. Then run the same command again."
    )

    def arms(self, investigation: Investigation) -> tuple[Arm, ...]:
        """The config under test and the controls, which are inspected."""
        inspected = inspected_arms(self.study, investigation.subject, self.controls)
        symbolic = symbolic_controls.describe_arms(self.study, SYMBOLIC_FAULTS)
        return inspected if investigation.subject.model.recursive else (*inspected, *symbolic)

    def is_short(self, investigation: Investigation) -> bool:
        """Whether a trace shows a fault already; else its size is judged, which needs the decoder."""
        return any(found.holds for found in investigation.context_traces[0])

    def decide(self, investigation: Investigation) -> HypothesisResult:
        """Trace the context of every seed and of the controls, and sweep its scale where its size differs."""
        if not investigation.subject.model.has_encoder:
            words = "The model is a TRM: its context is a puzzle vector."
            return self.not_run(CommonReason.NOT_APPLICABLE, words)
        began, waited = time.perf_counter(), 0.0
        investigation.progress(self.id, 0, 1)
        controls = inspect_controls(investigation, self.study, self.controls, trace_context)
        if not investigation.subject.model.recursive:
            controls += symbolic_controls.inspect_controls(self.study, SYMBOLIC_FAULTS, trace_context)
        seen, error = investigation.context_traces
        worst = next((found for found in seen if found.holds), seen[0] if seen else None)
        sizes: Sizes | None = None
        sweep: Sweep | None = None
        runs: list[LoadedRun] = []
        sized = investigation.takes_decoder  # a distribution has the size that it has
        if sized and worst is not None and not worst.holds and not broken_controls(controls):
            waiting = time.perf_counter()
            sizes = measure_sizes(investigation, worst)  # trains the decoder, where there is none yet
            if not sizes.alike:
                runs = train_with_frozen_decoder(investigation, self.id)
            sweep = sweep_scales(runs, sizes.scales) if runs else None
            if (
                sweep is not None and sweep.decision.gained
            ):  # a barely trained encoder shows no cost that lasts
                longer = train_longer(investigation, self.id)
                runs, sweep = [*runs, *longer], sweep_scales(longer, sizes.scales)
            waited = time.perf_counter() - waiting
        return self.statement.decided(
            judge_context(
                worst,
                error,
                sizes,
                sweep,
                controls,
                len(investigation.seeds),
                nothing_trains=_nothing_trains(runs),
                failure=next((run.reason for run in runs if run.failed), ""),
            ),
            screening=sweep is not None and sweep.decision.screening,
            arms=self.arms(investigation),
            runs=records_of(runs),
            evidence=_make_rows(worst, sizes, sweep, len(seen)) if worst else (),
            controls=controls,
            instruments=_check_instruments(controls),
            # The wait included runs of other parts, which are not counted here.
            wall_s=round(time.perf_counter() - began - waited + sum(run.record.wall_s for run in runs), 1),
        )


def _nothing_trains(runs: Sequence[LoadedRun]) -> bool:
    """Whether every run ended because the encoder gives the loss no gradient, which is H2's finding."""
    return bool(runs) and all(run.record.code == NOTHING_REQUIRES_GRADIENT for run in runs)


def judge_context(
    seen: ContextTrace | None,
    error: str,
    sizes: Sizes | None,
    sweep: Sweep | None,
    controls: Sequence[ControlOutcome],
    seeds: int,
    *,
    nothing_trains: bool = False,
    failure: str = "",
) -> Judgement:
    """The verdict of the worst trace, and of the size of the context where the trace finds nothing.

    Args:
        seen: the worst trace of any seed, if a model could be built.
        error: the reason why a model could not be built, or nothing.
        sizes: the sizes of the context and of the puzzle vectors, if they were measured.
        sweep: losses at other scales, where the sizes differ.
        controls: outcomes of the controls.
        seeds: number of seeds.
        nothing_trains: whether no run of the sweep could train, because no gradient reaches the encoder.
        failure: the reason why a run of the sweep failed, if one did.
    """
    found = judge(seen, error, controls, describe_scope(seeds))
    if seen is None or sizes is None or found.verdict is not Verdict.INVALIDATED:
        return found
    words = (
        f"{capitalise(seen.words)}; its size is {sizes.ratio:.3g} times that of the decoder's puzzle vectors"
    )
    scope = f"({format_seeds(seeds)})"
    if sizes.alike:
        return Judgement(Verdict.INVALIDATED, (*found.codes, SizeReason.ALIKE), f"{words} {scope}.")
    if sweep is None and nothing_trains:
        words = f"{words}. Whether that costs is not known, because no gradient reaches the encoder {scope}."
        return Judgement(Verdict.INCONCLUSIVE, (*found.codes, SizeReason.NOTHING_TRAINS), words)
    if sweep is None:
        words = f"{words}, and no run of the scale sweep finished"
        words += f": {failure.rstrip('.')}." if failure else "."
        return Judgement(Verdict.ERROR, (*found.codes, SizeReason.NO_SWEEP), words)
    decision, codes = sweep.decision, (*found.codes, *sweep.codes)
    return Judgement(Verdict(decision.verdict), codes, f"{words}, {sweep.words} {scope}.", decision.candidate)


FINITE = Metric("h3.finite", "the decoder receives finite numbers", Direction.HOLDS)
CHANGE = Metric(
    "h3.change-on-its-way",
    "difference between the context that the decoder receives and the encoder's, relative to its size",
    Direction.EQUAL,
)
OTHER_ROWS = Metric(
    "h3.change-with-other-rows",
    "change of a row's context with other demonstrations of other rows, relative to its size",
    Direction.EQUAL,
)
USE = Metric(
    "h3.change-of-logits",
    "change of the logits with demonstrations of another task, relative to their size",
    Direction.HOLDS,
)
UNREAD_PARTS = Metric(
    "h3.unread-parts",
    "parts of the demonstrations on which the context of some row does not depend",
    Direction.EQUAL,
)
SIZE = Metric("h3.size", "root mean square of the context over that of the puzzle vectors")
LOSS_AT_SCALE = Metric("h3.loss-at-scale", "loss at {item} times the context")
GAIN_AT_SCALE = Metric("h3.gain-at-best-scale", "gain in loss at {item} times the context", Direction.LOWER)


def _make_rows(
    seen: ContextTrace, sizes: Sizes | None, sweep: Sweep | None, seeds: int
) -> tuple[EvidenceRow, ...]:
    n = f"one batch of {format_seeds(seeds)}"
    rows = _make_trace_rows(seen, n)
    if sizes is not None:
        size = SIZE.row(
            sizes.ratio,
            threshold=f"within {LIKE[0]} and {LIKE[1]}, else the scale sweep decides",
            n=n,
            note=f"{sizes.context:.3g} over {sizes.table:.3g}; a puzzle vector fills one of {sizes.tokens} context "
            "tokens and leaves the others zero",
        )
        rows.append(size)
    return (*rows, *(_make_sweep_rows(sweep) if sweep is not None else ()))


def _make_trace_rows(seen: ContextTrace, n: str) -> list[EvidenceRow]:
    unread = ", ".join(part.words for part in seen.unread)
    scale = f"by least squares {seen.scale:.4g} times the encoder's context, cosine {seen.aligned:.3f}"
    used = USE.row(
        seen.used,
        threshold=f"> {ROUNDING:g}",
        passed=not seen.unused,
        n=n,
        note="at the random start of the encoder, one ACT step",
    )
    return [
        FINITE.row(float(seen.finite), threshold="all", passed=seen.finite, n=n),
        CHANGE.expect_at_most(seen.same, SAME, n, note=scale)
        if seen.compared
        else CHANGE.row(
            NotMeasured(absent="the core has no argument `context`"), threshold=f"<= {SAME:g}", n=n
        ),
        OTHER_ROWS.expect_at_most(seen.others, ROUNDING, n),
        used,
        UNREAD_PARTS.expect_none(
            len(seen.unread),
            n,
            threshold=f"0 of {len(PARTS)}",
            note=unread or "inputs, outputs and the last demonstration, each in other colours",
        ),
    ]


def _make_sweep_rows(sweep: Sweep) -> list[EvidenceRow]:
    i = sweep.interval
    n = format_seeds(i.seeds)
    rows = [
        LOSS_AT_SCALE.row(
            loss, item=f"{scale}", control=sweep.losses[1.0], threshold="against the unchanged context", n=n
        )
        for scale, loss in sweep.losses.items()
        if scale != 1.0
    ]
    gain = GAIN_AT_SCALE.row(
        i.mean,
        item_words=f"{sweep.scale}",
        control=0.0,
        low=i.low,
        high=i.high,
        effect=Effect.known(sweep.differences, SMALLEST_EFFECT, LEVEL),
        threshold=f"{SMALLEST_EFFECT} nats per token, interval above 0",
        passed=sweep.decision.ruled_out,
        n=n,
        note=f"{LEVEL:.1%} interval, paired t over seeds; the best of {len(sweep.losses) - 1} scales",
    )
    return [*rows, gain]


HEALTHY_PASSES = Instrument("h3.healthy-context-passes", "a healthy context passes unchanged")


def _check_instruments(controls: Sequence[ControlOutcome]) -> tuple[InstrumentCheck, ...]:
    healthy = [control for control in controls if control.kind == "negative"]
    details = "; ".join(control.detail for control in healthy)
    return (HEALTHY_PASSES.check(all(control.behaved for control in healthy), details),)


HYPOTHESIS = ContextInterface()

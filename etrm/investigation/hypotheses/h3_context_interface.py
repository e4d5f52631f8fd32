"""H3: the context is not what the decoder expects.

Mechanistic where something stands between encoder and decoder, or nothing gets through. Where only the
size differs from what the decoder was trained with, a sweep of the scale has to show that it costs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from statistics import fmean

from torch import Tensor

from etrm.batch import Batch
from etrm.checkpoints.decoder_loading import read_source
from etrm.data import Sample
from etrm.evaluation import Decision, PairedInterval, paired_t_interval
from etrm.evaluation import decide as decided_by
from etrm.investigation.comparison.paired_contrast import lower_by
from etrm.investigation.evidence import Instrument, Metric
from etrm.investigation.experiments import frozen_decoder
from etrm.investigation.hypotheses.structural_verdict import inspected_controls, judged, sentence, worst_of
from etrm.investigation.measurements.context_path import PARTS, ROUNDING, SAME, Passage, passage
from etrm.investigation.protocol import (
    CommonReason,
    Investigation,
    Judgement,
    Statement,
    broken_controls,
    control_arms,
    not_run,
    seeds_in_words,
)
from etrm.investigation.result import (
    ControlOutcome,
    Direction,
    Effect,
    Evidence,
    Hypothesis,
    InstrumentCheck,
    Run,
    Verdict,
)
from etrm.investigation.runs.measured_run import training_queries, with_foreign_demos
from etrm.model.act import Carry
from etrm.model.variant import ContextPolicy, Given, Variant
from etrm.training.scoring.predictor import compute_mean_loss, load_model
from etrm.training.trainer import Trainer

STATEMENT = Statement(
    id="H3",
    title="Context interface",
    statement="The context is not what the decoder expects.",
    refuted_by=(
        "The decoder is given what the encoder says, finite, of the right shape and each row its own; other "
        "demonstrations change its logits; and the context is of the size of the decoder's own puzzle vectors (ratio "
        "of the root mean squares within 0.5 and 2), or another size does not lower the loss by 0.05 nats."
    ),
    mechanism=(
        "A context of another scale, of another row, or replaced on its way is noise to the decoder, which learns to "
        "do without it."
    ),
    kind="mixed",
    would_change="Something between encoder and decoder, or a scale at which the loss is lower by the smallest effect.",
)
POSITIVE = ("context-scale", "context-nan", "context-ignored", "context-collapsed")
LIKE = (0.5, 2.0)
"""Ratios of the root mean squares within which the context is of the size that the decoder knows."""
SCALES = (0.01, 0.03, 0.1, 0.3)
"""Of the context, against 1, in the sweep."""
LEVEL = 1 - 0.1 / len(SCALES)
"""Of each interval of the sweep: 90 % for all of them together (Bonferroni)."""


class SizeReason(StrEnum):
    """What the size of the context, and the sweep of its scale, say."""

    ALIKE = "h3.size-alike"
    NO_SWEEP = "h3.no-run-of-the-sweep-finished"
    COSTS = "h3.size-costs"
    COSTS_NOTHING = "h3.size-costs-nothing"
    UNDECIDED = "h3.size-undecided"
    NOT_USED = "h3.context-not-used-at-that-scale"


@dataclass(frozen=True)
class Sizes:
    """The decoder's own puzzle vectors beside the encoder's contexts.

    Attributes:
        table: root mean square of a puzzle vector over all context tokens, those that are zero included.
        context: of the encoder's contexts at the random start.
        tokens: context tokens of which the table fills one.
    """

    table: float
    context: float
    tokens: int

    @property
    def ratio(self) -> float:
        """How much larger the context is."""
        return self.context / self.table if self.table > 0 else float("inf")

    @property
    def alike(self) -> bool:
        """Whether the ratio is within what counts as alike."""
        return LIKE[0] <= self.ratio <= LIKE[1]


@dataclass(frozen=True)
class Sweep:
    """What another scale of the context changes.

    Attributes:
        losses: mean over the seeds by scale, 1 included.
        scale: the one with the lowest loss but 1.
        differences: loss at 1 less that at the scale, by seed.
        interval: of the differences.
        use: loss at the scale with foreign demonstrations less that with their own, mean over the seeds.
    """

    losses: Mapping[float, float]
    scale: float
    differences: tuple[float, ...]
    interval: PairedInterval
    use: float

    @property
    def used(self) -> bool:
        """Whether the context still says something at that scale."""
        return self.use >= frozen_decoder.SMALLEST_EFFECT

    @cached_property
    def decision(self) -> Decision:
        """Of the registered rule, for a context that is used.

        One that says nothing does less harm the smaller it is: that is a fault of what it says, not of its size.
        """
        found = decided_by(self.interval, frozen_decoder.SMALLEST_EFFECT)
        if self.used or not found.gained:
            return found
        reason = f"the context is not used at that scale ({self.use:.3f}): {found.reason}"
        return Decision("INCONCLUSIVE", reason, found.screening, False, None)

    @property
    def codes(self) -> tuple[SizeReason, ...]:
        """What the sweep says of the size, as stable codes."""
        said = {
            False: SizeReason.COSTS,
            True: SizeReason.COSTS_NOTHING,
            None: SizeReason.UNDECIDED,
        }[self.decision.ruled_out]
        return (said,) if self.used or self.interval.mean <= 0 else (said, SizeReason.NOT_USED)

    @property
    def words(self) -> str:
        """What the sweep says of the size, and the best scale with its effect."""
        i = self.interval
        said = {
            False: "and that costs",
            True: "which costs nothing that matters",
            None: "and whether that costs is undecided",
        }[self.decision.ruled_out]
        return (
            f"{said}: of smaller scales {self.scale:g} does best, with a loss of {self.losses[self.scale]:.3f} against "
            f"{self.losses[1.0]:.3f}, {lower_by(i)}"
            + ("" if self.used or i.mean <= 0 else ", but foreign demonstrations do as well there")
        )


def decide(investigation: Investigation) -> Hypothesis:
    """Follow the context of every seed and of the controls, and sweep its scale where its size is another."""
    if investigation.subject.model.variant == "trm":
        words = "The subject is a TRM: its context is a puzzle vector."
        return not_run(STATEMENT, CommonReason.NOT_APPLICABLE, words)
    began, waited = time.perf_counter(), 0.0
    investigation.progress("H3", 0, 1)
    controls = inspected_controls(investigation, "h3", POSITIVE, passage)
    seen, error = investigation.passages
    worst = next((found for found in seen if found.holds), seen[0] if seen else None)
    sizes: Sizes | None = None
    sweep: Sweep | None = None
    runs: tuple[Run, ...] = ()
    if worst is not None and not worst.holds and not broken_controls(controls):
        waiting = time.perf_counter()
        sizes = _sizes(investigation, worst)  # trains the decoder, where there is none yet
        if not sizes.alike:
            runs = tuple(frozen_decoder.trained(investigation, "H3"))
        waited = time.perf_counter() - waiting
        sweep = _sweep(investigation, runs) if runs else None
    return STATEMENT.decided(
        _judged(worst, error, sizes, sweep, controls, len(investigation.seeds)),
        screening=sweep is not None and sweep.decision.screening,
        arms=control_arms("h3", investigation.subject, POSITIVE),
        runs=runs,
        evidence=_evidence(worst, sizes, sweep, len(seen)) if worst else (),
        controls=controls,
        instruments=_instruments(controls),
        # Beside its runs those of others were made, and waited for.
        wall_s=round(time.perf_counter() - began - waited + sum(run.wall_s for run in runs), 1),
    )


def _sizes(investigation: Investigation, seen: Passage) -> Sizes:
    table = read_source(investigation.decoder, investigation.subject.train.decoder_weights).puzzle_table
    tokens = seen.wanted_shape[0]
    size = 0.0 if table is None else float(table.square().mean().sqrt()) / tokens**0.5
    return Sizes(size, seen.rms, tokens)


def _sweep(investigation: Investigation, runs: Sequence[Run]) -> Sweep | None:
    """Losses on the training queries of the encoders that were trained on the frozen decoder."""
    finished = [run for run in runs if run.state == "finished"]
    if not finished:
        return None
    losses: dict[float, list[float]] = {scale: [] for scale in (1.0, *SCALES)}
    trained = [_Trained.load(investigation.root / run.folder) for run in finished]
    for scale, found in losses.items():
        found += [one.loss(scale, one.samples) for one in trained]
    means = {scale: fmean(found) for scale, found in losses.items()}
    best = min(SCALES, key=lambda scale: means[scale])
    differences = tuple(one - other for one, other in zip(losses[1.0], losses[best], strict=True))
    interval = paired_t_interval(differences, LEVEL)
    use = fmean(one.loss(best, with_foreign_demos(one.samples)) for one in trained) - means[best]
    return Sweep(means, best, differences, interval, use)


@dataclass(frozen=True)
class _Trained:
    """A run's model with its training queries."""

    model: Variant
    policy: ContextPolicy
    samples: list[Sample]
    kind: str

    @classmethod
    def load(cls, folder: Path) -> _Trained:
        model, config, _, _ = load_model(folder, "raw")
        return cls(model, model.context_policy, training_queries(Trainer(config)), config.train.loss)

    def loss(self, scale: float, samples: Sequence[Sample]) -> float:
        """Mean loss with the context times ``scale``."""
        self.model.context_policy = _scaled(self.policy, scale)
        return compute_mean_loss(self.model, samples, self.kind)


def _scaled(policy: ContextPolicy, scale: float) -> ContextPolicy:
    def scaled(model: Variant, carry: Carry, batch: Batch) -> Given:
        given = policy(model, carry, batch)
        context: Tensor = scale * given.context
        return replace(given, context=context)

    return scaled


def _judged(
    seen: Passage | None,
    error: str,
    sizes: Sizes | None,
    sweep: Sweep | None,
    controls: Sequence[ControlOutcome],
    seeds: int,
) -> Judgement:
    found = judged(seen, error, controls, worst_of(seeds))
    if seen is None or sizes is None or found.verdict is not Verdict.INVALIDATED:
        return found
    words = f"{sentence(seen)}; its size is {sizes.ratio:.3g} times that of the decoder's puzzle vectors"
    scope = f"({seeds_in_words(seeds)})"
    if sizes.alike:
        return Judgement(Verdict.INVALIDATED, (*found.codes, SizeReason.ALIKE), f"{words} {scope}.")
    if sweep is None:
        words = f"{words}, and no run of the scale sweep finished."
        return Judgement(Verdict.ERROR, (*found.codes, SizeReason.NO_SWEEP), words)
    decision, codes = sweep.decision, (*found.codes, *sweep.codes)
    return Judgement(Verdict(decision.verdict), codes, f"{words}, {sweep.words} {scope}.", decision.candidate)


FINITE = Metric("h3.finite", "the decoder is given finite numbers", Direction.HOLDS)
CHANGE = Metric(
    "h3.change-on-its-way",
    "difference of what the decoder is given to what the encoder says, of its size",
    Direction.EQUAL,
)
OTHER_ROWS = Metric(
    "h3.change-with-other-rows",
    "change of a row's context with other rows' demonstrations, of its size",
    Direction.EQUAL,
)
USE = Metric(
    "h3.change-of-logits",
    "change of the logits with another task's demonstrations, of their size",
    Direction.HOLDS,
)
UNREAD_PARTS = Metric(
    "h3.unread-parts",
    "parts of the demonstrations that some row's context says nothing of",
    Direction.EQUAL,
)
SIZE = Metric("h3.size", "root mean square of the context, over that of the puzzle vectors")
LOSS_AT_SCALE = Metric("h3.loss-at-scale", "loss at {item} times the context")
GAIN_AT_SCALE = Metric("h3.gain-at-best-scale", "lower loss at {item} times the context", Direction.LOWER)


def _evidence(seen: Passage, sizes: Sizes | None, sweep: Sweep | None, seeds: int) -> tuple[Evidence, ...]:
    n = f"one batch of {seeds_in_words(seeds)}"
    rows = _passage_rows(seen, n)
    if sizes is not None:
        size = SIZE.row(
            sizes.ratio,
            control=sizes.table,
            threshold=f"within {LIKE[0]} and {LIKE[1]}, else the scale sweep decides",
            n=n,
            note=f"a puzzle vector fills one of {sizes.tokens} context tokens and leaves the others zero",
        )
        rows.append(size)
    return (*rows, *(_sweep_rows(sweep) if sweep is not None else ()))


def _passage_rows(seen: Passage, n: str) -> list[Evidence]:
    unread = ", ".join(part.words for part in seen.unread)
    return [
        FINITE.row(float(seen.finite), threshold="all", passed=seen.finite, n=n),
        CHANGE.row(
            seen.same,
            control=0.0,
            threshold=f"<= {SAME:g}",
            passed=seen.same <= SAME,
            n=n,
            note=f"least squares: {seen.scale:.4g} times what it says, cosine {seen.aligned:.3f}",
        ),
        OTHER_ROWS.row(
            seen.others, control=0.0, threshold=f"<= {ROUNDING:g}", passed=seen.others <= ROUNDING, n=n
        ),
        USE.row(
            seen.used,
            threshold=f"> {ROUNDING:g}",
            passed=not seen.unused,
            n=n,
            note="at the random start of the encoder, one ACT step",
        ),
        UNREAD_PARTS.row(
            len(seen.unread),
            control=0.0,
            threshold=f"0 of {len(PARTS)}",
            passed=not seen.unread,
            n=n,
            note=unread or "inputs, outputs and the last demonstration, each under other colours",
        ),
    ]


def _sweep_rows(sweep: Sweep) -> list[Evidence]:
    i = sweep.interval
    n = seeds_in_words(i.seeds)
    rows = [
        LOSS_AT_SCALE.row(
            loss, item=f"{scale}", control=sweep.losses[1.0], threshold="against the context as it is", n=n
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
        effect=Effect.known(sweep.differences, frozen_decoder.SMALLEST_EFFECT, LEVEL),
        threshold=f"{frozen_decoder.SMALLEST_EFFECT} nats per token, interval above 0",
        passed=sweep.decision.ruled_out,
        n=n,
        note=f"{LEVEL:.1%} interval, paired t over seeds; the best of {len(SCALES)} scales",
    )
    return [*rows, gain]


HEALTHY_PASSES = Instrument("h3.healthy-context-passes", "a healthy context passes unchanged")


def _instruments(controls: Sequence[ControlOutcome]) -> tuple[InstrumentCheck, ...]:
    healthy = next(control for control in controls if control.kind == "negative")
    return (HEALTHY_PASSES.check(healthy.behaved, healthy.detail),)

"""H3: the context is not what the decoder expects.

Mechanistic where something stands between encoder and decoder, or nothing gets through. Where only the
size differs from what the decoder was trained with, a sweep of the scale has to show that it costs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from etrm.batch import Batch
from etrm.data import Sample
from etrm.evaluation import Decision, PairedInterval, paired_t_interval
from etrm.evaluation import decide as decided_by
from etrm.investigation import frozen_decoder
from etrm.investigation.contrast import lower_by
from etrm.investigation.inspection import inspected_controls, judged, sentence, worst_of
from etrm.investigation.interface import PARTS, ROUNDING, SAME, Passage, passage
from etrm.investigation.measure import training_queries, with_foreign_demos
from etrm.investigation.protocol import (
    Investigation,
    Statement,
    broken_controls,
    control_arms,
    not_run,
    seeds_in_words,
)
from etrm.investigation.result import (
    Absent,
    ControlOutcome,
    Effect,
    Evidence,
    Hypothesis,
    InstrumentCheck,
    Run,
    Value,
    Verdict,
)
from etrm.model.act import Carry
from etrm.model.recursive import ContextPolicy, Given, RecursiveModel
from etrm.training.decoder import read_source
from etrm.training.predict import load_model, mean_loss
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
        return not_run(STATEMENT, "The subject is a TRM: its context is a puzzle vector.")
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
    verdict, sentence = _verdict(worst, error, sizes, sweep, controls, len(investigation.seeds))
    return STATEMENT.decided(
        verdict,
        sentence,
        screening=sweep is not None and sweep.decision.screening,
        candidate=sweep is not None and sweep.decision.candidate,
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

    model: RecursiveModel
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
        return mean_loss(self.model, samples, self.kind)


def _scaled(policy: ContextPolicy, scale: float) -> ContextPolicy:
    def scaled(model: RecursiveModel, carry: Carry, batch: Batch) -> Given:
        given = policy(model, carry, batch)
        context: Tensor = scale * given.context
        return replace(given, context=context)

    return scaled


def _verdict(
    seen: Passage | None,
    error: str,
    sizes: Sizes | None,
    sweep: Sweep | None,
    controls: Sequence[ControlOutcome],
    seeds: int,
) -> tuple[Verdict, str]:
    found = judged(seen, error, controls, worst_of(seeds))
    if seen is None or sizes is None or found[0] is not Verdict.INVALIDATED:
        return found
    words = sentence(seen)
    size = f"its size is {sizes.ratio:.3g} times that of the decoder's puzzle vectors"
    if sizes.alike:
        return Verdict.INVALIDATED, f"{words}; {size} ({seeds_in_words(seeds)})."
    if sweep is None:
        return Verdict.ERROR, f"{words}; {size}, and no run of the scale sweep finished."
    verdict = Verdict(sweep.decision.verdict)
    return verdict, f"{words}; {size}, {sweep.words} ({seeds_in_words(seeds)})."


def _evidence(seen: Passage, sizes: Sizes | None, sweep: Sweep | None, seeds: int) -> tuple[Evidence, ...]:
    base = Evidence(
        metric="",
        direction="must hold",
        treatment=0.0,
        threshold="",
        passed=None,
        n=f"one batch of {seeds_in_words(seeds)}",
    )
    rows: list[dict[str, Any]] = [
        {
            "metric": "the decoder is given finite numbers",
            "treatment": float(seen.finite),
            "threshold": "all",
            "passed": seen.finite,
        },
        {
            "metric": "difference of what the decoder is given to what the encoder says, of its size",
            "direction": "must be equal",
            "control": 0.0,
            "treatment": _finite(seen.same),
            "threshold": f"<= {SAME:g}",
            "passed": seen.same <= SAME,
            "note": f"least squares: {seen.scale:.4g} times what it says, cosine {seen.aligned:.3f}",
        },
        {
            "metric": "change of a row's context with other rows' demonstrations, of its size",
            "direction": "must be equal",
            "control": 0.0,
            "treatment": _finite(seen.others),
            "threshold": f"<= {ROUNDING:g}",
            "passed": seen.others <= ROUNDING,
        },
        {
            "metric": "change of the logits with another task's demonstrations, of their size",
            "treatment": _finite(seen.used),
            "threshold": f"> {ROUNDING:g}",
            "passed": not seen.unused,
            "note": "at the random start of the encoder, one ACT step",
        },
        {
            "metric": "parts of the demonstrations that some row's context says nothing of",
            "direction": "must be equal",
            "control": 0.0,
            "treatment": float(len(seen.unread)),
            "threshold": f"0 of {len(PARTS)}",
            "passed": not seen.unread,
            "note": ", ".join(seen.unread)
            or "inputs, outputs and the last demonstration, each under other colours",
        },
    ]
    if sizes is not None:
        rows.append(
            {
                "metric": "root mean square of the context, over that of the puzzle vectors",
                "direction": "context",
                "control": sizes.table,
                "treatment": _finite(sizes.ratio),
                "threshold": f"within {LIKE[0]} and {LIKE[1]}, else the scale sweep decides",
                "note": f"a puzzle vector fills one of {sizes.tokens} context tokens and leaves the others zero",
            }
        )
    if sweep is not None:
        i = sweep.interval
        rows += [
            {
                "metric": f"loss at {scale} times the context",
                "direction": "context",
                "control": sweep.losses[1.0],
                "treatment": _finite(loss),
                "threshold": "against the context as it is",
                "n": seeds_in_words(i.seeds),
            }
            for scale, loss in sweep.losses.items()
            if scale != 1.0
        ]
        rows.append(
            {
                "metric": f"lower loss at {sweep.scale} times the context",
                "direction": "lower is healthy",
                "control": 0.0,
                "treatment": _finite(i.mean),
                "low": i.low if i.low > -float("inf") else None,
                "high": i.high if i.high < float("inf") else None,
                "effect": Effect.known(sweep.differences, frozen_decoder.SMALLEST_EFFECT, LEVEL),
                "threshold": f"{frozen_decoder.SMALLEST_EFFECT} nats per token, interval above 0",
                "passed": sweep.decision.ruled_out,
                "n": seeds_in_words(i.seeds),
                "note": f"{LEVEL:.1%} interval, paired t over seeds; the best of {len(SCALES)} scales",
            }
        )
    for row in rows:
        if isinstance(row["treatment"], Absent):
            row["passed"] = None  # what was not measured passes nothing
    return tuple(base.model_copy(update=row) for row in rows)


def _instruments(controls: Sequence[ControlOutcome]) -> tuple[InstrumentCheck, ...]:
    healthy = next(control for control in controls if control.kind == "negative")
    return (
        InstrumentCheck(
            name="a healthy context passes unchanged", passed=healthy.behaved, detail=healthy.detail
        ),
    )


def _finite(value: float) -> Value:
    return value if abs(value) < float("inf") else Absent(absent=f"not finite: {value}")

"""Whether the size of the context costs anything: the loss at other scales of it, on the frozen decoder."""

from __future__ import annotations

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
from etrm.investigation.comparison.frozen_arms import SMALLEST_EFFECT
from etrm.investigation.comparison.paired_contrast import describe_change
from etrm.investigation.measurements.context_path import ContextTrace
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.investigation.runs.measured_run import rebuild_trainer, training_queries, with_mismatched_demos
from etrm.investigation.session import Investigation
from etrm.model.act import Carry
from etrm.model.variant import ContextPolicy, Given, Variant
from etrm.training.scoring.predictor import compute_mean_loss, load_model

LIKE = (0.5, 2.0)
"""Ratios of the root mean squares within which the context has the size that the decoder was trained with."""
SMALLER = (0.01, 0.03, 0.1, 0.3)
"""Factors in the sweep of a context that is larger than a puzzle vector, compared with 1."""
LARGER = (3.0, 10.0, 30.0, 100.0)
"""The same of one that is smaller."""
LEVEL = 1 - 0.1 / len(SMALLER)
"""Level of each interval of the sweep: 90 % for all of them together (Bonferroni)."""


class SizeReason(StrEnum):
    """What the size of the context and the sweep of its scale show."""

    ALIKE = "h3.size-alike"
    NO_SWEEP = "h3.no-run-of-the-sweep-finished"
    NOTHING_TRAINS = "h3.nothing-trains-on-the-frozen-decoder"
    COSTS = "h3.size-costs"
    COSTS_NOTHING = "h3.size-costs-nothing"
    UNDECIDED = "h3.size-undecided"
    NOT_USED = "h3.context-not-used-at-that-scale"


@dataclass(frozen=True)
class Sizes:
    """The size of the decoder's puzzle vectors and of the encoder's contexts.

    Attributes:
        table: root mean square of a puzzle vector over all context tokens, including those that are zero.
        context: root mean square of the encoder's contexts at the random start.
        tokens: number of context tokens; a puzzle vector fills one of them.
    """

    table: float
    context: float
    tokens: int

    @property
    def ratio(self) -> float:
        """The size of the context over that of a puzzle vector."""
        return self.context / self.table if self.table > 0 else float("inf")

    @property
    def scales(self) -> tuple[float, ...]:
        """The factors of the sweep, which lead towards the size of a puzzle vector."""
        return SMALLER if self.ratio > 1 else LARGER

    @property
    def alike(self) -> bool:
        """Whether the ratio is within what counts as alike."""
        return LIKE[0] <= self.ratio <= LIKE[1]


@dataclass(frozen=True)
class Sweep:
    """The loss at other scales of the context.

    Attributes:
        losses: mean loss over the seeds by scale, 1 included.
        scale: the scale with the lowest loss, other than 1.
        differences: loss at 1 minus loss at the scale, by seed.
        interval: the interval of the differences.
        use: loss at the scale with mismatched demonstrations minus loss with their own, mean over the seeds.
    """

    losses: Mapping[float, float]
    scale: float
    differences: tuple[float, ...]
    interval: PairedInterval
    use: float

    @property
    def used(self) -> bool:
        """Whether the decoder still uses the context at that scale."""
        return self.use >= SMALLEST_EFFECT

    @cached_property
    def decision(self) -> Decision:
        """The decision of the registered rule, for a context that is used.

        A context without information does less harm the smaller it is: a fault of its content, not of its size.
        """
        found = decided_by(self.interval, SMALLEST_EFFECT)
        if self.used or not found.gained:
            return found
        reason = f"the context is not used at that scale ({self.use:.3f}): {found.reason}"
        return Decision("INCONCLUSIVE", reason, found.screening, False, None)

    @property
    def codes(self) -> tuple[SizeReason, ...]:
        """What the sweep shows about the size, as stable codes."""
        code = {
            False: SizeReason.COSTS,
            True: SizeReason.COSTS_NOTHING,
            None: SizeReason.UNDECIDED,
        }[self.decision.ruled_out]
        return (code,) if self.used or self.interval.mean <= 0 else (code, SizeReason.NOT_USED)

    @property
    def words(self) -> str:
        """What the sweep shows about the size, and the best scale with its effect."""
        i = self.interval
        cost = {
            False: "which raises the loss",
            True: "which does not raise the loss noticeably",
            None: "and whether that raises the loss is undecided",
        }[self.decision.ruled_out]
        size = "smaller" if self.scale < 1 else "larger"
        unused = ", but there mismatched demonstrations give the same loss"
        return (
            f"{cost}: at {self.scale:g} times the context, the best {size} size, it is {self.losses[self.scale]:.3f} "
            f"instead of {self.losses[1.0]:.3f}, {describe_change(i)}"
            + ("" if self.used or i.mean <= 0 else unused)
        )


def measure_sizes(investigation: Investigation, seen: ContextTrace) -> Sizes:
    """The sizes of the context and of the decoder's puzzle vectors; trains the decoder where there is none yet."""
    table = read_source(investigation.decoder, investigation.subject.train.decoder_weights).puzzle_table
    tokens = seen.wanted_shape[0]
    size = 0.0 if table is None else float(table.square().mean().sqrt()) / tokens**0.5
    return Sizes(size, seen.rms, tokens)


def sweep_scales(runs: Sequence[LoadedRun], scales: Sequence[float]) -> Sweep | None:
    """Losses on the training queries of the encoders that were trained on the frozen decoder, at 1 and other scales."""
    finished = [run for run in runs if run.finished]
    if not finished:
        return None
    losses: dict[float, list[float]] = {scale: [] for scale in (1.0, *scales)}
    trained = [_Trained.load(run.path) for run in finished]
    for scale, found in losses.items():
        found += [one.loss(scale, one.samples) for one in trained]
    means = {scale: fmean(found) for scale, found in losses.items()}
    best = min(scales, key=lambda scale: means[scale])
    differences = tuple(one - other for one, other in zip(losses[1.0], losses[best], strict=True))
    interval = paired_t_interval(differences, LEVEL)
    use = fmean(one.loss(best, with_mismatched_demos(one.samples)) for one in trained) - means[best]
    return Sweep(means, best, differences, interval, use)


@dataclass(frozen=True)
class _Trained:
    """The model of a run with its training queries."""

    model: Variant
    policy: ContextPolicy
    samples: list[Sample]
    kind: str

    @classmethod
    def load(cls, folder: Path) -> _Trained:
        model, config, _, _ = load_model(folder, "raw")
        return cls(model, model.context_policy, training_queries(rebuild_trainer(folder)), config.train.loss)

    def loss(self, scale: float, samples: Sequence[Sample]) -> float:
        """The mean loss with the context times ``scale``."""
        self.model.context_policy = _scale(self.policy, scale)
        return compute_mean_loss(self.model, samples, self.kind)


def _scale(policy: ContextPolicy, scale: float) -> ContextPolicy:
    def scaled(model: Variant, carry: Carry, batch: Batch) -> Given:
        given = policy(model, carry, batch)
        context: Tensor = scale * given.context
        return replace(given, context=context)

    return scaled

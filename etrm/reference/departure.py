"""Where a real run departs from the reference, as values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class PipelineStage(StrEnum):
    """The stages of a training step in the order in which they happen, and then those of evaluation."""

    MODEL = "model"  # weights by names and shapes
    LOADING = "loading"  # the weights at the first step, and those of a decoder while it is frozen
    SCHEDULE = "schedule"  # learning rates, frozen part
    DATA = "data"  # the bucket, the samples that its rows take, and the batch made of them
    CONTEXT = "context"  # encoder or puzzle table, up to what the core reads
    CARRY = "carry"  # the states with which the core begins
    CORE = "core"
    HALTING = "halting"
    LABELS = "labels"
    LOSS = "loss"
    GRADIENT = "gradient"  # including the sum over micro-batches, before clipping
    CLIPPING = "clipping"
    UPDATE = "update"
    AVERAGE = "average"  # the EMA
    QUERIES = "queries"  # what evaluation asks
    WEIGHTS = "weights"  # the weights that evaluation uses
    ANSWERS = "answers"  # what the model answers
    VOTES = "votes"
    SCORE = "score"  # of an evaluation, and the numbers that a step logs


def find_carry_stage(name: str) -> PipelineStage:
    """Return the stage that a tensor of the carry belongs to: the context for what an encoder keeps between steps."""
    kept_by_encoder = name.partition(".")[0] in ("context", "encoder_state")
    return PipelineStage.CONTEXT if kept_by_encoder else PipelineStage.CARRY


@dataclass(frozen=True)
class Departure:
    """One value of a real run that differs from that of the reference.

    Attributes:
        stage: the stage that computed it from inputs that are those of the real run.
        tensor: the name of the value, such as ``labels`` or ``encoder.layers.0.mlp.down_proj.weight``.
        size: the norm of the difference divided by that of the reference; for discrete values the share that differs;
            infinite where it is not a number.
        limit: the largest size that precision explains; 0 for discrete values.
        where: the place in words that a reader can look up, such as the first row and its task.
        step: the 1-based optimiser step; None for evaluation.
        bucket: the bucket of the step; None for evaluation.
        unmoved: whether nothing reaches the parameter: its clipped gradient is zero, or an update left it where it
            was; of a context, whether the encoder was not called.
    """

    stage: PipelineStage
    tensor: str
    size: float
    limit: float
    where: str = ""
    step: int | None = None
    bucket: int | None = None
    unmoved: bool = False

    def __post_init__(self) -> None:
        if math.isnan(self.size):
            object.__setattr__(self, "size", math.inf)


@dataclass(frozen=True)
class NotCovered:
    """Something that could not be compared with the reference, so that nothing follows about it.

    Attributes:
        code: the identity of the reason.
        what: the reason as a report prints it.
    """

    code: str
    what: str

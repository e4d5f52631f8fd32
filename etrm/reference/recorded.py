"""One real training step as plain tensors: what the reference compares.

Shapes: B rows, S tokens, P context tokens, L = P + S, D hidden, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from etrm.device import to_host
from etrm.reference.model.context import DemoPairs

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class RecordedBatch:
    """The samples of B rows: tensors (B, S) and (B,), and their demonstrations."""

    inputs: Tensor
    labels: Tensor
    positions: Tensor
    valid: Tensor | None
    puzzle_ids: Tensor
    sample_ids: Tensor
    demos: DemoPairs

    def to_arrays(self) -> dict[str, Any]:
        """The tensors as arrays on the host, by the names of :func:`etrm.reference.data.loaded_rows.compare_batch`."""
        own = ("inputs", "labels", "positions", "valid", "puzzle_ids", "sample_ids")
        shown = ("tokens", "positions", "valid", "owner")
        tensors = {name: getattr(self, name) for name in own}
        tensors |= {f"demos.{name}": getattr(self.demos, name) for name in shown}
        return {name: None if value is None else to_host(value).numpy() for name, value in tensors.items()}


@dataclass(frozen=True)
class RecordedCore:
    """One call of the core: states (B, L, D) before and after it, what it reads, logits (B, S, V), q (B, 2)."""

    z_H: Tensor
    z_L: Tensor
    context: Tensor
    inputs: Tensor
    positions: Tensor
    valid: Tensor | None
    z_H_out: Tensor
    z_L_out: Tensor
    logits: Tensor
    q: Tensor


@dataclass(frozen=True)
class RecordedEncoding:
    """One call of the encoder: pairs of R rows, the state that it got by name if any, and its context (R, P, D)."""

    demos: DemoPairs
    state: Tensors | None
    context: Tensor


@dataclass
class RecordedPart:
    """The rows of one micro-batch.

    Attributes:
        rows: the rows of the batch.
        carry: the state that the model got, by name.
        minimum: (B,) least number of ACT steps, None without exploration.
        batch: the samples.
        core: the call of the core; None of a model that has another one.
        carry_out: the state that the model returned, by name.
        logits, q_halt, kl, entropy: the output of the model.
        labels: (B, S), those that the loss used.
        total: the scalar that was trained on, before its division by the batch size.
        encoded: whether the encoder was called; True of a model without one.
        returned: (B, P, D) the context that the encoder returned, None where it was not called once for all rows.
        arrived: (B, P, D) the gradient that comes back to it, None where none does.
        trains: whether a gradient should come back to it.
    """

    rows: slice
    carry: Tensors
    minimum: Tensor | None
    batch: RecordedBatch
    carry_out: Tensors
    logits: Tensor
    q_halt: Tensor
    core: RecordedCore | None = None
    kl: Tensor | None = None
    entropy: Tensor | None = None
    labels: Tensor | None = None
    total: Tensor | None = None
    encoded: bool = True
    returned: Tensor | None = None
    arrived: Tensor | None = None
    trains: bool = False


@dataclass(frozen=True)
class Snapshot:
    """The state of a run between two steps.

    Attributes:
        step: optimiser steps done.
        weights: copies of the tensors of the model.
        moments: the tensors of the optimisers by parameter and name, such as ``core.lm_head.weight.exp_avg``.
        averages: the accumulators of the EMA, and how often they were updated.
        average_updates: the number of updates of the EMA.
        carries: the states of the rows, by bucket and name.
        rows: the indices of the rows' samples and the next index, by bucket.
        random_torch, random_halting: states of the generators.
        training: whether the model is in training mode.
    """

    step: int
    weights: Tensors
    moments: Tensors
    averages: Tensors
    average_updates: int
    carries: Mapping[int, Tensors]
    rows: Mapping[int, tuple[Sequence[int], int]]
    random_torch: Tensor
    random_halting: Tensor
    training: bool = True


@dataclass
class RecordedStep:
    """One step.

    Attributes:
        before, after: the state of the run.
        bucket: the bucket of the step.
        batch_size: rows of the global batch.
        parameters: names of the parameters.
        parts: the micro-batches in their order.
        gradients: the accumulated gradient of each parameter after the last backward pass.
        applied: the gradients that the update gets.
        rates: the learning rate of each parameter that an optimiser updates.
        requiring: names of the parameters that require a gradient when the model is called.
        logged: the numbers that the step logs, by name; None of a step that ended before.
        at_forward: names of the weights that differ from those of ``before`` when the model is called.
        freezes_decoder: whether the settings that the run really uses freeze the decoder.
    """

    before: Snapshot
    bucket: int
    batch_size: int
    parameters: tuple[str, ...]
    parts: list[RecordedPart] = field(default_factory=list)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    applied: dict[str, Tensor] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    logged: Mapping[str, Any] | None = None
    at_forward: tuple[str, ...] = ()
    requiring: tuple[str, ...] = ()
    freezes_decoder: bool = False
    after: Snapshot | None = None

"""The micro-batches of a step, which are computed one after the other (gradient accumulation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from etrm.batch import Batch
from etrm.data.sample import CELLS
from etrm.device import to_device
from etrm.errors import ConfigError
from etrm.model.act import Carry
from etrm.model.encoders.pairs import PairEncoder
from etrm.model.forward_context import Shapes, find_shapes
from etrm.model.lengths import align, round_length
from etrm.model.variant import Variant
from etrm.training.execution.distributed import World
from etrm.training.slots import Slots


@dataclass(frozen=True)
class MicroBatch:
    """Some rows of one step, on the device.

    Attributes:
        rows: the indices of the rows among the rows of this process.
        carry, batch: the states and the samples of the rows.
        minimum: (b,) minimum numbers of steps before they may halt, or None.
    """

    rows: slice
    carry: Carry
    batch: Batch
    minimum: Tensor | None


def split(rows: range, parts: int) -> list[slice]:
    """Split the rows of a process into equal parts.

    Raises:
        ConfigError: they cannot be split evenly.
    """
    if len(rows) % parts:
        raise ConfigError(
            "train.indivisible-parts",
            f"the {len(rows)} rows of a process cannot be split into {parts} equal parts (train.accumulate)",
            allowed="train.batch_size a multiple of processes times train.accumulate",
            next_step="--set train.batch_size=... or --set train.accumulate=...",
        )
    each = len(rows) // parts
    return [slice(part * each, (part + 1) * each) for part in range(parts)]


def build_micro_batches(
    model: Variant,
    slots: Slots,
    carry: Carry,
    slices: Sequence[slice],
    world: World,
    halting: torch.Generator,
) -> list[MicroBatch]:
    """Build the micro-batches of the next step of some slots.

    Random numbers are drawn for the global batch, and each micro-batch takes those of its rows. All
    micro-batches on all processes are padded to the same length, so that the states and their statistics
    are those of a single process.
    """
    tokens, pairs = world.most(slots.longest, slots.most_demos)
    tokens = _round_tokens(tokens, model.config.context_tokens)
    minimum = model.draw_minimum(len(slots.indices), halting)
    noise = model.draw_noise(len(slots.indices), pairs)
    device = carry.steps.device
    found = []
    for rows in slices:
        mine = slots.mine[rows]
        batch = slots.lay_out(rows, tokens)
        if noise is not None:
            batch = replace(batch, demos=replace(batch.demos, noise=noise[mine.start : mine.stop]))
        found.append(
            MicroBatch(
                rows=rows,
                carry=carry if len(slices) == 1 else carry.rows(rows),
                batch=to_device(batch, device).widened(),  # there, because fewer bytes are copied
                minimum=None if minimum is None else to_device(minimum[mine.start : mine.stop], device),
            )
        )
    return found


def _round_tokens(tokens: int, context_tokens: int) -> int:
    """Round the length of queries, which the core reads behind the context."""
    shapes = find_shapes()
    if shapes is Shapes.ALL:
        return tokens
    if shapes is Shapes.ALIGNED:
        return min(align(context_tokens + tokens) - context_tokens, CELLS)
    return round_length(tokens, CELLS)


def count_positions(model: Variant, slots: Slots, parts: Sequence[MicroBatch]) -> tuple[int, int]:
    """Count the positions of a step of this process: of its queries, and of pairs that a grid encoder of etrm encodes.

    Returns:
        all positions, and those that are padding: masked, or of pairs that fill a group.
    """
    positions, real = 0, sum(len(sample.tokens) for sample in slots.samples)
    encoder = getattr(model.encoder, "grid_encoder", None)
    for part in parts:
        positions += part.batch.inputs.numel()
        if isinstance(encoder, PairEncoder):
            computed, tokens = encoder.count_positions(part.batch.demos)
            positions, real = positions + computed, real + tokens
    return positions, positions - real

"""Groups of rows of similar length, which need little padding, and lengths that are rounded to few values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from etrm.device import to_device
from etrm.model.forward_context import Shapes

ALIGNMENT = 8
"""Lengths that are no multiple of it need other kernels of attention, which a compiler compiles separately."""
PER_DOUBLING = 4
"""Rounded lengths between a number and its double. Rounding adds at most a quarter. With twice as many, the steps of
ARC-AGI-1 at batch 128 have 3 % less padding and pairs of 50 shapes instead of 27 (see docs/results/gpu.md)."""
GROUPS_PER_BATCH = 4
"""Groups of as many pairs as the batch has samples. With half as many, the same steps have 5 % more padding."""


def round_length(length: int, most: int | None = None) -> int:
    """Return the next rounded length: 1 to 8, then four lengths per doubling (10, 12, 14, 16, 20, 24, ...).

    Args:
        length: a number of tokens.
        most: the largest possible length, which counts as a rounded one.
    """
    step = max(1, (1 << max(length - 1, 0).bit_length()) // (2 * PER_DOUBLING))
    rounded = -(-length // step) * step
    return rounded if most is None else min(rounded, most)


def group_pairs(
    lengths: Sequence[int], shapes: Shapes, samples: int, most: int, device: torch.device | None = None
) -> list[tuple[Tensor, int]]:
    """Group pairs by the rank of their length, the longest first.

    Args:
        lengths: tokens that exist in each pair.
        shapes: the rounding of numbers of pairs and lengths.
        samples: the number of samples that the pairs belong to, on which rounded numbers of pairs depend.
        most: the largest possible length.
        device: the device on which the groups are needed.

    Returns:
        (rows, length) of each group, rows (n,) int64. Every pair is in one group; the last group repeats the shortest
        pair to fill it.
    """
    order, groups = _sort(lengths, device), split_pairs(lengths, shapes, samples, most)
    if groups:
        order = torch.cat((order, order[-1:].expand(groups[-1][1] - len(lengths))))
    return [(order[start:end], length) for start, end, length in groups]


def split_by_length(lengths: Sequence[int], waste: float = 0.15) -> list[tuple[int, int, int]]:
    """Return (start, end, length) of groups of rows, sorted by falling length, that need little padding.

    Args:
        lengths: tokens that exist in each row.
        waste: a group ends where more than this share of it would be padding.
    """
    sizes = sorted(lengths, reverse=True)
    groups, start, total = [], 0, sum(sizes[:1])
    for end in range(1, len(sizes) + 1):
        size = sizes[end] if end < len(sizes) else 0
        total += size
        if end == len(sizes) or total < (1 - waste) * sizes[start] * (end + 1 - start):
            groups.append((start, end, sizes[start]))
            start, total = end, size
    return groups


def split_pairs(
    lengths: Sequence[int], shapes: Shapes, samples: int, most: int
) -> list[tuple[int, int, int]]:
    """Return (start, end, length) of the groups of :func:`group_pairs`; the last may end behind all pairs."""
    if shapes is Shapes.ALL:
        return split_by_length(lengths)
    if shapes is Shapes.ALIGNED:
        return _align(split_by_length(lengths))
    sizes = sorted(lengths, reverse=True)
    pairs = max(1, -(-samples // GROUPS_PER_BATCH))
    if shapes is Shapes.ONE_GROUP:
        pairs *= max(1, -(-len(sizes) // pairs))
    return [(start, start + pairs, round_length(sizes[start], most)) for start in range(0, len(sizes), pairs)]


def _align(groups: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Round lengths up, and join a group of a single pair with its neighbour; without one it gets a second pair."""
    joined: list[tuple[int, int, int]] = []
    for start, end, length in groups:
        if joined and 1 in (end - start, joined[-1][1] - joined[-1][0]):
            joined[-1] = (joined[-1][0], end, joined[-1][2])
        else:
            joined.append((start, end, length))
    return [(start, max(end, start + 2), align(length)) for start, end, length in joined]


def align(length: int) -> int:
    """Return the next multiple of :data:`ALIGNMENT`."""
    return -(-length // ALIGNMENT) * ALIGNMENT


def _sort(lengths: Sequence[int], device: torch.device | None) -> Tensor:
    order = torch.tensor(lengths, dtype=torch.long).sort(descending=True).indices
    return order if device is None else to_device(order, device)

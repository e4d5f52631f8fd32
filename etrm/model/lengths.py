"""Groups of rows of similar length, which need little padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from etrm.device import to_device


def group_by_length(
    lengths: Sequence[int], device: torch.device | None = None, waste: float = 0.15
) -> list[tuple[Tensor, int]]:
    """Group rows of similar length, the longest first.

    Args:
        lengths: tokens that exist in each row.
        device: the device on which the groups are needed.
        waste: a group ends where more than this share of it would be padding.

    Returns:
        (rows, length) of each group, rows (n,) int64; every row is in one group.
    """
    order = torch.tensor(lengths).sort(descending=True).indices
    if device is not None:
        order = to_device(order, device)
    sizes = sorted(lengths, reverse=True)
    groups, start = [], 0
    for end in range(1, len(sizes) + 1):
        done = end == len(sizes)
        if done or sum(sizes[start : end + 1]) < (1 - waste) * sizes[start] * (end + 1 - start):
            groups.append((order[start:end], sizes[start]))
            start = end
    return groups

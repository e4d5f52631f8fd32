"""Rows of similar length, so that little padding is computed."""

from __future__ import annotations

from torch import Tensor


def by_length(valid: Tensor, waste: float = 0.15) -> list[tuple[Tensor, int]]:
    """Rows in groups of similar length, the longest first.

    Args:
        valid: (N, L) bool, tokens that exist, in front of each row.
        waste: a group ends where more than this share of it would be padding.

    Returns:
        (rows, length) of each group; every row stands in one.
    """
    lengths, order = valid.sum(1).sort(descending=True)
    groups, start = [], 0
    sizes = lengths.tolist()
    for end in range(1, len(sizes) + 1):
        done = end == len(sizes)
        if done or sum(sizes[start : end + 1]) < (1 - waste) * sizes[start] * (end + 1 - start):
            groups.append((order[start:end], sizes[start]))
            start = end
    return groups

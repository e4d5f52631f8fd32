"""How large the gradient of each sample is, over all calls of a module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from diagnostics.recording.readout import Readouts
from diagnostics.records import CallRecord


@dataclass(frozen=True, eq=False)
class SampleSizes:
    """The largest |gradient| of each sample over all calls whose rows are known, in numbers.

    Attributes:
        covering: Samples where it is not zero.
        largest: The largest of all.
        evenness: (sum n_b)^2 / sum n_b^2; 0 without gradient, NaN where one is not finite.
    """

    covering: int = 0
    largest: Any = 0.0
    evenness: Any = 0.0


@lru_cache(maxsize=8)
def every_sample(samples: int) -> Tensor:
    """(samples,) int64, 0 to samples - 1: what calls of the whole batch share; it is compared by identity."""
    return torch.arange(samples)


def alone(samples: int, calls: Sequence[CallRecord]) -> SampleSizes:
    """Those of a single step."""
    pairs = [
        (call.samples, call.row_gradients)
        for call in calls
        if isinstance(call.samples, Tensor) and isinstance(call.row_gradients, Tensor)
    ]
    if not pairs:
        return SampleSizes()
    index = pairs[0][0]
    if index is every_sample(samples) and all(other is index for other, _ in pairs):
        rows = [sizes for _, sizes in pairs]
        sizes = (rows[0] if len(rows) == 1 else torch.stack(rows).amax(0)).double()
    else:
        sizes = torch.zeros(samples, dtype=torch.float64)
        values = torch.cat([gradients.double() for _, gradients in pairs])
        sizes.scatter_reduce_(0, torch.cat([rows for rows, _ in pairs]), values, "amax")
    (covering,), (largest,), (evenness,) = _summarise(sizes[None])
    return SampleSizes(covering, largest, evenness)


def together(samples: int, calls: Sequence[Tensor], readout: Readouts) -> SampleSizes:
    """Those of several steps, all calls of which computed each sample.

    Args:
        calls: (steps, samples) of each call.
    """
    rows = [sizes for sizes in calls if sizes.shape[1] == samples]
    if not rows:
        return SampleSizes()
    sizes = (rows[0] if len(rows) == 1 else torch.stack(rows).amax(0)).double()
    covering, largest, evenness = _summarise(sizes)
    first = readout.column(covering).settle()
    return SampleSizes(first, readout.column(largest), readout.column(evenness))


def _summarise(sizes: Tensor) -> tuple[list[int], list[float], list[float]]:
    """Covering samples, largest gradient and evenness of each step, from (steps, samples)."""
    largest = sizes.amax(1)
    scaled = sizes / largest[:, None]  # squares of small gradients underflow
    evenness = scaled.sum(1).square() / scaled.square().sum(1)
    usable = (largest != 0.0) & largest.isfinite()
    return (
        torch.count_nonzero(sizes, dim=1).tolist(),
        largest.tolist(),
        torch.where(usable, evenness, 0.0 * largest).tolist(),
    )

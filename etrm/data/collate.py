"""Collate samples into the tensors of :mod:`etrm.batch`, padded to the longest sample of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from etrm.batch import IGNORE, Batch, Demos
from etrm.data.sample import CELLS, DemoPair, Sample
from etrm.data.tokens import PAD, Tokens
from etrm.errors import ArgumentError


def collate(samples: Sequence[Sample], tokens: int = 0, first_slot: int = 0) -> Batch:
    """Return a batch of samples, in their order.

    Args:
        samples: the samples of the batch.
        tokens: the smallest number of tokens to pad a query to, if the samples are part of a batch with longer ones.
        first_slot: the index of the first sample in that batch.

    If every sequence is the whole canvas (the published layout), ``valid`` is None, because PAD is attended to like any
    other token there.
    """
    if not samples:
        raise ArgumentError("data.empty-batch", "cannot collate an empty batch")
    lengths = _lengths([sample.tokens for sample in samples])
    longest = max(int(lengths.max()), tokens)
    return Batch(
        inputs=_padded([sample.tokens for sample in samples], longest, PAD),
        labels=_padded([sample.labels for sample in samples], longest, IGNORE),
        positions=_padded([sample.positions for sample in samples], longest, 0),
        valid=_valid(lengths, longest, CELLS),
        puzzle_ids=torch.tensor([sample.puzzle_id for sample in samples], dtype=torch.long),
        sample_ids=torch.tensor([sample.serial for sample in samples], dtype=torch.long),
        demos=_collate_demos(samples, first_slot),
    )


def _collate_demos(samples: Sequence[Sample], first_slot: int) -> Demos:
    pairs: list[DemoPair] = [pair for sample in samples for pair in sample.demos]
    lengths = _lengths([pair.tokens for pair in pairs])
    longest = int(lengths.max()) if len(lengths) else 0
    counts = np.array([len(sample.demos) for sample in samples])
    return Demos(
        tokens=_padded([pair.tokens for pair in pairs], longest, PAD),
        positions=_padded([pair.positions for pair in pairs], longest, 0),
        valid=_valid(lengths, longest, 2 * CELLS),
        owner=torch.from_numpy(np.repeat(np.arange(len(samples), dtype=np.int64), counts)),
        slots=torch.arange(first_slot, first_slot + len(samples)),
        lengths=tuple(lengths.tolist()),
        cells=_count_cells([pair.positions for pair in pairs], lengths),
        most=int(counts.max()),
    )


def _count_cells(positions: Sequence[Tokens], lengths: npt.NDArray[np.int64]) -> tuple[int, ...]:
    """Count the different cells of each pair, from its positions."""
    found = np.zeros((len(lengths), CELLS), dtype=bool)
    if len(lengths):
        found[np.repeat(np.arange(len(lengths)), lengths), np.concatenate(positions) % CELLS] = True
    return tuple(found.sum(1).tolist())


def _lengths(rows: Sequence[Tokens]) -> npt.NDArray[np.int64]:
    return np.array([len(row) for row in rows], dtype=np.int64)


def _valid(lengths: npt.NDArray[np.int64], longest: int, whole: int) -> torch.Tensor | None:
    if (lengths == whole).all():
        return None
    return torch.from_numpy(np.arange(longest) < lengths[:, None])


def _padded(rows: Sequence[Tokens], longest: int, fill: int) -> torch.Tensor:
    out = np.full((len(rows), longest), fill, dtype=np.int64)
    if rows:  # all at once: a loop over rows takes most of the time of a large batch
        out[np.arange(longest) < _lengths(rows)[:, None]] = np.concatenate(rows)
    return torch.from_numpy(out)

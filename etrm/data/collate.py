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
    """Return a batch of samples, in their order, whose tensors are int64; for the arguments see :func:`lay_out`."""
    return lay_out(samples, tokens, first_slot).widened()


def lay_out(samples: Sequence[Sample], tokens: int = 0, first_slot: int = 0) -> Batch:
    """Return a batch of samples whose tokens, labels and positions are int16, a quarter of the bytes to copy.

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
    exists = np.arange(longest) < lengths[:, None]
    return Batch(
        inputs=_padded([sample.tokens for sample in samples], exists, PAD),
        labels=_padded([sample.labels for sample in samples], exists, IGNORE),
        positions=_padded([sample.positions for sample in samples], exists, 0),
        valid=_valid(lengths, exists, CELLS),
        puzzle_ids=torch.tensor([sample.puzzle_id for sample in samples], dtype=torch.long),
        sample_ids=torch.tensor([sample.serial for sample in samples], dtype=torch.long),
        demos=_lay_out_demos(samples, first_slot),
    )


def _lay_out_demos(samples: Sequence[Sample], first_slot: int) -> Demos:
    pairs: list[DemoPair] = [pair for sample in samples for pair in sample.demos]
    lengths = _lengths([pair.tokens for pair in pairs])
    exists = np.arange(lengths.max(initial=0)) < lengths[:, None]
    counts = np.array([len(sample.demos) for sample in samples])
    return Demos(
        tokens=_padded([pair.tokens for pair in pairs], exists, PAD),
        positions=_padded([pair.positions for pair in pairs], exists, 0),
        valid=_valid(lengths, exists, 2 * CELLS),
        owner=torch.from_numpy(np.repeat(np.arange(len(samples), dtype=np.int64), counts)),
        slots=torch.arange(first_slot, first_slot + len(samples)),
        lengths=tuple(lengths.tolist()),
        cells=tuple(pair.cells for pair in pairs),
        most=int(counts.max()),
    )


def _lengths(rows: Sequence[Tokens]) -> npt.NDArray[np.int64]:
    return np.array([len(row) for row in rows], dtype=np.int64)


def _valid(lengths: npt.NDArray[np.int64], exists: npt.NDArray[np.bool_], whole: int) -> torch.Tensor | None:
    return None if (lengths == whole).all() else torch.from_numpy(exists)


def _padded(rows: Sequence[Tokens], exists: npt.NDArray[np.bool_], fill: int) -> torch.Tensor:
    out = np.full(exists.shape, fill, dtype=np.int16)
    if rows:  # all at once: a loop over rows takes most of the time of a large batch
        out[exists] = np.concatenate(rows)
    return torch.from_numpy(out)

"""Samples of one batch, padded no further than its longest, as the tensors of :mod:`etrm.batch`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from etrm.batch import IGNORE, Batch, Demos
from etrm.data.sample import CELLS, DemoPair, Sample
from etrm.data.tokens import PAD, Tokens


def collate(samples: Sequence[Sample]) -> Batch:
    """One batch of samples, in their order.

    Where every sequence is the whole canvas (the published layout) ``valid`` is None: PAD is
    attended like any token there.
    """
    if not samples:
        raise ValueError("cannot collate an empty batch")
    lengths = _lengths([sample.tokens for sample in samples])
    return Batch(
        inputs=_padded([sample.tokens for sample in samples], lengths, PAD),
        labels=_padded([sample.labels for sample in samples], lengths, IGNORE),
        positions=_padded([sample.positions for sample in samples], lengths, 0),
        valid=_valid(lengths, CELLS),
        puzzle_ids=torch.tensor([sample.puzzle_id for sample in samples], dtype=torch.long),
        sample_ids=torch.tensor([sample.serial for sample in samples], dtype=torch.long),
        demos=_collate_demos(samples),
    )


def _collate_demos(samples: Sequence[Sample]) -> Demos:
    pairs: list[DemoPair] = [pair for sample in samples for pair in sample.demos]
    lengths = _lengths([pair.tokens for pair in pairs])
    counts = np.array([len(sample.demos) for sample in samples])
    return Demos(
        tokens=_padded([pair.tokens for pair in pairs], lengths, PAD),
        positions=_padded([pair.positions for pair in pairs], lengths, 0),
        valid=_valid(lengths, 2 * CELLS),
        owner=torch.from_numpy(np.repeat(np.arange(len(samples), dtype=np.int64), counts)),
        slots=torch.arange(len(samples)),
    )


def _lengths(rows: Sequence[Tokens]) -> npt.NDArray[np.int64]:
    return np.array([len(row) for row in rows], dtype=np.int64)


def _valid(lengths: npt.NDArray[np.int64], whole: int) -> torch.Tensor | None:
    if (lengths == whole).all():
        return None
    return torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])


def _padded(rows: Sequence[Tokens], lengths: npt.NDArray[np.int64], fill: int) -> torch.Tensor:
    longest = int(lengths.max()) if len(lengths) else 0
    out = np.full((len(rows), longest), fill, dtype=np.int64)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(out)

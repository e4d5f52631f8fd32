"""The samples that the rows of a carry work on; a row draws a new one only when it begins anew."""

from __future__ import annotations

from collections.abc import Callable

from etrm.batch import Batch
from etrm.data import Episodes, Sample, collate

Draw = Callable[[Episodes, int, int], Sample]
"""From episodes, bucket and index to a sample: a pure function, so a position is the whole state."""


class Slots:
    """B rows of one bucket.

    The published code hands a whole new batch to every step and throws away the rows that meet an
    unfinished sample, about 15 of 16 while the carry is in lockstep. Here nothing is thrown away.
    """

    def __init__(self, episodes: Episodes, bucket: int, rows: int, draw: Draw) -> None:
        self._episodes, self._bucket, self._draw = episodes, bucket, draw
        self.indices = [-1] * rows
        self.next_index = 0
        self._samples: list[Sample] = []

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The rows' samples."""
        return tuple(self._samples)

    def refill(self, halted: list[bool]) -> None:
        """Draw the next sample for every row that halted; the others keep theirs."""
        for row, done in enumerate(halted):
            if done:
                self.indices[row] = self.next_index
                self.next_index += 1
        if not self._samples:
            self._samples = [self._sample(index) for index in self.indices]
            return
        for row, done in enumerate(halted):
            if done:
                self._samples[row] = self._sample(self.indices[row])

    def batch(self) -> Batch:
        """The rows' samples, padded as little as possible."""
        return collate(self._samples)

    def restore(self, indices: list[int], next_index: int) -> None:
        """Continue from saved positions; the samples are drawn again, exactly as they were."""
        self.indices, self.next_index = list(indices), next_index
        self._samples = [self._sample(index) for index in indices] if next_index else []

    def _sample(self, index: int) -> Sample:
        return self._draw(self._episodes, self._bucket, index)

"""The samples that the rows of a carry work on; a row draws a new one only when it resets."""

from __future__ import annotations

from collections.abc import Callable

from etrm.batch import Batch
from etrm.data import Episodes, Sample, lay_out

Draw = Callable[[Episodes, int, int], Sample]
"""From episodes, bucket and index to a sample: a pure function, so a position is the whole state."""


class Slots:
    """B rows of one bucket; this process draws the samples of its own rows.

    The published code hands a whole new batch to every step and throws away the rows that meet an
    unfinished sample, about 15 of 16 while the carry is in lockstep. Here nothing is thrown away.

    Args:
        episodes: the training episodes.
        bucket: the bucket of the rows.
        rows: the number of rows of the global batch.
        draw: the loader.
        mine: the rows of this process, by default all of them.

    Attributes:
        draw: the loader.
    """

    def __init__(
        self, episodes: Episodes, bucket: int, rows: int, draw: Draw, mine: range | None = None
    ) -> None:
        self._episodes, self._bucket, self.draw = episodes, bucket, draw
        self.mine = range(rows) if mine is None else mine
        self.indices = [-1] * rows
        self.next_index = 0
        self._samples: list[Sample] = []

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The rows' samples."""
        return tuple(self._samples)

    def refill(self, halted: list[bool]) -> None:
        """Take the next sample for every row of the global batch that halted; the others keep theirs."""
        for row, done in enumerate(halted):
            if done:
                self.indices[row] = self.next_index
                self.next_index += 1
        fresh = not self._samples
        for place, row in enumerate(self.mine):
            if fresh:
                self._samples.append(self._sample(self.indices[row]))
            elif halted[row]:
                self._samples[place] = self._sample(self.indices[row])

    def peek(self, place: int) -> Sample:
        """A sample that was never drawn for any row, another one for each place."""
        return self._sample(self.next_index + place)

    @property
    def longest(self) -> int:
        """Tokens of the longest query of this process."""
        return max(len(sample.tokens) for sample in self._samples)

    @property
    def most_demos(self) -> int:
        """Demonstrations of the sample of this process that has most."""
        return max(len(sample.demos) for sample in self._samples)

    def batch(self) -> Batch:
        """All samples of this process, padded as little as possible."""
        return self.lay_out().widened()

    def lay_out(self, part: slice = slice(None), tokens: int = 0) -> Batch:
        """Samples of this process, or a part of them, padded to ``tokens`` or as little as possible, in int16."""
        return lay_out(self._samples[part], tokens, first_slot=part.start or 0)

    def restore(self, indices: list[int], next_index: int) -> None:
        """Continue from saved positions; the samples are drawn again, exactly as they were."""
        self.indices, self.next_index = list(indices), next_index
        self._samples = [self._sample(indices[row]) for row in self.mine] if next_index else []

    def _sample(self, index: int) -> Sample:
        return self.draw(self._episodes, self._bucket, index)

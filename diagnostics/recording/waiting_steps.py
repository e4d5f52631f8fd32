"""Finished steps whose records have not been read yet."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from diagnostics.recording.calls.forward_calls import not_measured
from diagnostics.recording.finished_steps import FinishedStep, RecordBuilder, RecordedSteps
from diagnostics.recording.readout import fetch_all

_MOST_NUMBERS = 2**21
"""Numbers of 4 bytes that may wait."""


class WaitingSteps:
    """Collects steps, so that their records are made together, in one transfer from a GPU.

    Args:
        builder: Makes the records.
        most: Number of steps that may wait.

    Attributes:
        most: The same.
        lost: Why steps were not recorded -> the first and the last of them.
    """

    def __init__(self, builder: RecordBuilder, most: int) -> None:
        self.most = most
        self.lost: dict[str, tuple[int, int]] = {}
        self._builder = builder
        self._steps: list[tuple[FinishedStep, Hashable]] = []
        self._numbers = 0

    @property
    def is_full(self) -> bool:
        """Whether the records should be made now."""
        return self._numbers > _MOST_NUMBERS or len(self._steps) >= self.most

    def add(self, step: FinishedStep, batch: Hashable) -> None:
        """Add a step, with the name of its batch."""
        self._steps.append((step, batch))
        self._numbers += step.readout.size

    def note_lost(self, number: int, error: Exception) -> None:
        """Note that a step could not be recorded."""
        reason = str(not_measured(error))
        self.lost[reason] = (self.lost.get(reason, (number, number))[0], number)

    def take(self) -> Iterator[tuple[list[RecordedSteps], list[Hashable]]]:
        """The records of all steps that wait, those of one kind together, each with the names of its batches."""
        waiting, self._steps, self._numbers = self._steps, [], 0
        fetch_all(step.readout for step, _ in waiting)
        names = [batch for _, batch in waiting]
        for run in self._builder.runs([step for step, _ in waiting]):
            batches, names = names[: len(run)], names[len(run) :]
            try:
                found = self._builder.records(run)
            except Exception as error:  # noqa: BLE001 - what cannot be measured must not end the training
                for step in run:
                    self.note_lost(step.number, error)
                continue
            yield found, batches

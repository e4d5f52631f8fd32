"""The optimisers of a running program, told apart by what they update."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from torch.optim import Optimizer

from diagnostics.auditing.scripts.live_objects import held_by
from diagnostics.auditing.scripts.optimizer_turns import OptimizerTurns

_MOST_UNKNOWN = 3
"""Optimisers whose second update is waited for: each is kept alive with its state."""


def share_parameters(one: Optimizer, other: Optimizer) -> bool:
    """Whether two optimisers hold a parameter both."""
    return one is other or not held_by([one]).isdisjoint(held_by([other]))


class SteppingOptimizers:
    """Those that the monitor knows, and those that step although it does not.

    Attributes:
        known: Those of the monitor.
        newcomer: One that the monitor does not know and that stepped again, though it holds tensors of the models.
        strangers: The latest that hold nothing of the models.
    """

    def __init__(self) -> None:
        self.known: Sequence[Optimizer] = []
        self.newcomer: Optimizer | None = None
        self.strangers: deque[Optimizer] = deque(maxlen=_MOST_UNKNOWN)
        self._unknown: deque[Optimizer] = deque(maxlen=_MOST_UNKNOWN)
        self._meanwhile: set[int] = set()  # known ones that stepped since the last unknown one

    def know(self, optimizers: Sequence[Optimizer]) -> None:
        """The monitor is made for these."""
        self.known = list(optimizers)
        self.newcomer = None
        self._unknown.clear()
        self._meanwhile.clear()

    def note_known(self, optimizer: Optimizer) -> None:
        """One that the monitor knows has stepped."""
        self._meanwhile.add(id(optimizer))

    def note_unknown(self, optimizer: Optimizer) -> None:
        """One that it does not know has updated the models.

        One that is made anew for each update is a fault, which the monitor sees; one that stays is to be watched.
        """
        if optimizer in self._unknown:
            self.newcomer = optimizer
        else:
            self._unknown.append(optimizer)
            self._meanwhile.clear()

    def note_stranger(self, optimizer: Optimizer) -> None:
        """One has stepped that holds nothing of the models."""
        if optimizer not in self.strangers:
            self.strangers.append(optimizer)

    def known_for(self, optimizer: Optimizer) -> Optimizer:
        """The known one that an optimiser steps for: itself, or the one that it wraps."""
        if optimizer in self.known:
            return optimizer
        return next((each for each in self.known if share_parameters(each, optimizer)), optimizer)

    def with_newcomer(self, newcomer: Optimizer) -> tuple[list[Optimizer], OptimizerTurns, bool]:
        """What to watch with an optimiser more: of a later stage of the training, or one that takes turns with others.

        Returns:
            The optimisers, the order of their updates, and whether the newcomer takes turns with some.
        """
        rivals = [each for each in self.known if share_parameters(each, newcomer)]
        turns = [each for each in rivals if id(each) in self._meanwhile]
        others = [each for each in self.known if each not in rivals]
        now = [*others, *turns, newcomer]
        return now, OptimizerTurns(map(id, now if turns else [newcomer])), bool(turns)

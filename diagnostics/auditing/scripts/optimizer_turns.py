"""Which optimisers belong to one step of a loop that updates with several, as a GAN does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable

MOST_TURNS = 16
"""Updates of one optimiser after which the others are not waited for: a critic usually takes five turns."""


class OptimizerTurns:
    """Learns the order of updates, and tells when those of a step are complete.

    A step has one update of the optimiser that steps most often. One that steps after every fifth of its updates
    belongs to every fifth step.

    Args:
        seen: Names of the optimisers in the order of the updates of one round.
    """

    def __init__(self, seen: Iterable[Hashable]) -> None:
        order = list(seen)
        self._every: dict[Hashable, int] = {}  # updates of the leader from one of its updates to the next
        self._since: Counter[Hashable] = Counter()  # updates of the leader since its last
        self._leader = Counter(order).most_common(1)[0][0] if order else None
        for place, name in enumerate(order):
            if name == self._leader:
                self._since.update(set(order[place + 1 :]) - {name})
            else:
                self._note_other(name)
        self.begin()

    def begin(self) -> None:
        """A step begins."""
        self._turns: Counter[Hashable] = Counter()
        self._waiting = {name for name, every in self._every.items() if self._since[name] + 1 >= every}
        self._waiting |= set() if self._leader is None else {self._leader}

    def note(self, name: Hashable) -> None:
        """An optimiser has stepped."""
        self._leader = name if self._leader is None else self._leader
        self._turns[name] += 1
        if name == self._leader:
            self._since.update(self._every.keys())
        else:
            self._note_other(name)

    def _note_other(self, name: Hashable) -> None:
        self._every[name], self._since[name] = max(self._since[name], 1), 0

    @property
    def complete(self) -> bool:
        """Whether the open step has all its updates."""
        return bool(self._turns) and (self._waiting <= self._turns.keys() or self._is_tired())

    def _is_tired(self) -> bool:
        return max(self._turns.values()) >= MOST_TURNS

    def end(self) -> None:
        """A complete step ends; those that were waited for in vain are not any more, and the leader may be another."""
        if self._is_tired():
            for name in self._waiting - self._turns.keys():
                self._every.pop(name, None)
        name, most = self._turns.most_common(1)[0]
        if most > self._turns[self._leader]:
            others = self._turns.keys() - {name}
            self._leader = name
            self._every = {other: max(most // self._turns[other], 1) for other in others}
            self._since = Counter(dict.fromkeys(others, 0))

"""Whether a module that is not called in a step is left out at random, or has stopped being called.

Stochastic depth and branches that depend on the data leave a module out at irregular intervals; a cache is filled
again at regular ones, or never.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

_PATIENCE = 5
"""Times the longest interval so far without a call after which a module counts as no longer called."""
_REGULAR = 2
"""Equal intervals after which it counts as called at regular ones."""


@dataclass
class _Calls:
    """The recorded steps in which one module was called, counted from 1."""

    last: int = 0
    intervals: int = 0
    lengths: set[int] = field(default_factory=set)

    def add(self, step: int, steps: int) -> None:
        """Add calls in so many steps in a row."""
        if self.last:
            self.intervals += 1
            self.lengths.add(step - self.last)
        if steps > 1:
            self.intervals += steps - 1
            self.lengths.add(1)
        self.last = step + steps - 1

    def is_over(self, step: int) -> bool:
        """Whether it is no longer called."""
        return step - self.last > _PATIENCE * max(self.lengths, default=1)

    def is_regular(self, step: int) -> bool:
        """Whether it is called in every second step, or in every third, and so on."""
        longest = max(self.lengths, default=1)
        return self.intervals >= _REGULAR and self.lengths == {longest} and step - self.last < longest


class CallIntervals:
    """The intervals between the calls of each watched module, over all recorded steps."""

    def __init__(self) -> None:
        self._calls: dict[str, _Calls] = {}
        self._steps = 0

    def are_settled(self, modules: Iterable[str], called: Collection[str]) -> bool:
        """Whether modules that the next step leaves out are no longer called, so that steps need not be told apart."""
        known = (self._calls.get(name, _Calls()) for name in modules if name not in called)
        return all(calls.is_over(self._steps + 1) for calls in known)

    def add(self, modules: Iterable[str], called: Collection[str], steps: int) -> frozenset[str]:
        """Add steps that call the same modules; the modules that they leave out and that may be called again."""
        first = self._steps + 1
        self._steps += steps
        left_out = set()
        for name in modules:
            calls = self._calls.setdefault(name, _Calls())
            if name in called:
                calls.add(first, steps)
            elif not calls.is_over(first) and not calls.is_regular(first):
                left_out.add(name)
        return frozenset(left_out)

"""Which watched modules feed which, read off the autograd graph of one step.

Gradient that a module loses is lost to all modules that feed it, and its output affects all modules that it feeds: this
distinguishes a cause from its consequences. The graph is walked from the inputs of every call to the nearest outputs of
watched modules. Nodes are held until the step ends, so only the first recorded step is traced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

_MOST_NODES = (
    10_000  # of one walk, milliseconds; if more lie between two modules, their relation stays unknown
)


class Flow:
    """Collects which module feeds which while `tracing`; `feeds` answers afterwards."""

    def __init__(self) -> None:
        self.tracing = True
        self._owners: dict[Any, set[str]] = {}  # node of the graph -> modules that returned it
        self.into: dict[str, frozenset[str]] = {}  # module -> those that feed it directly

    def note(self, name: str, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
        """One forward call of a watched module."""
        if not self.tracing:
            return
        self.into[name] = self.into.get(name, frozenset()) | self.nearest(inputs)
        for tensor in outputs:
            if tensor.grad_fn is not None:
                self._owners.setdefault(tensor.grad_fn, set()).add(name)

    def close(self) -> None:
        """End of the step: release its graph."""
        self.tracing = False
        self._owners.clear()

    def replace(self, into: Mapping[str, frozenset[str]]) -> None:
        """Use what several processes found together instead of what this one did."""
        self.into = dict(into)

    def feeds(self, first: str, second: str) -> bool:
        """Whether gradient that leaves `second` towards its inputs reaches `first`."""
        seen: set[str] = set()
        waiting = [second]
        while waiting:
            for name in self.into.get(waiting.pop(), frozenset()) - seen:
                seen.add(name)
                waiting.append(name)
        return first in seen

    def nearest(self, inputs: Iterable[Tensor]) -> set[str]:
        """The modules whose outputs the tensors were computed from, with no other noted module between."""
        waiting = [tensor.grad_fn for tensor in inputs if tensor.grad_fn is not None]
        seen: set[Any] = set(waiting)
        found: set[str] = set()
        while waiting:
            node = waiting.pop()
            if node in self._owners:
                found |= self._owners[node]
                continue
            following = [before for before, _ in node.next_functions if before is not None]
            new = [before for before in following if before not in seen]
            seen.update(new)
            waiting += new
            if len(seen) > _MOST_NODES:
                return found
        return found

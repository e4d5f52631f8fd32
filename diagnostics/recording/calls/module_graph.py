"""Which watched modules feed which, read off the autograd graph of one step.

Gradient that a module loses is lost to all modules that feed it, and its output affects all modules that it feeds: this
distinguishes a cause from its consequences. The graph is walked from the inputs of every call to the nearest outputs of
watched modules. Nodes are held until the step ends, so only the first recorded step is traced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from diagnostics.recording.tensors import is_captured, is_dense

_MOST_NODES = (
    10_000  # of one walk, milliseconds; if more lie between two modules, their relation stays unknown
)


class Flow:
    """Collects which module feeds which while `tracing`; `feeds` answers afterwards."""

    def __init__(self) -> None:
        self.tracing = True
        self._owners: dict[Any, set[str]] = {}  # node of the graph -> modules that returned it
        self._origins: dict[
            Any, set[Any]
        ] = {}  # the same -> nodes of other modules that it was computed from
        self._gates: set[str] = set()
        self._others: set[str] = set()  # modules whose result is used otherwise
        self.constant: set[str] = set()
        """Modules whose first call reads no sample: a learnt value that is repeated for each, or what came of one."""
        self.into: dict[str, frozenset[str]] = {}  # module -> those that feed it directly

    def note(self, name: str, inputs: Sequence[Tensor], outputs: Iterable[Tensor]) -> None:
        """One forward call of a watched module."""
        if not self.tracing:
            return
        given = [tensor.grad_fn for tensor in inputs if tensor.grad_fn is not None]
        made = {tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None}
        read = self._nodes(given)
        if name not in self.into and given and self._names(read) <= self.constant and _repeats(inputs):
            self.constant.add(name)
        self.into[name] = self.into.get(name, frozenset()) | self._names(read)
        self._note_reader(given, read)
        for node in made - self._owners.keys():
            self._note_reader([node], self._nodes([node]))  # of modules inside of it
        for node in made:
            self._owners.setdefault(node, set()).add(name)
            self._origins.setdefault(node, set()).update(
                read, *(self._origins.get(each, ()) for each in read)
            )

    def _note_reader(self, start: Iterable[Any], read: set[Any]) -> None:
        """Something uses these nodes together; some of them are factors of what they were computed from."""
        joined = {node for node in read if self._origins.get(node, set()) & read}
        factors = self._factors(start) if joined else set()
        for node in read:
            (self._gates if node in factors else self._others).update(self._owners[node])

    def _factors(self, start: Iterable[Any]) -> set[Any]:
        """The nodes of modules that are multiplied with what they were computed from."""
        found = set()
        for product in self._walk(start)[1]:
            if product in self._owners or not product.name().startswith("MulBackward"):
                continue
            sides = [self._nodes([before]) for before, _ in product.next_functions if before is not None]
            for one, other in permutations(sides, 2):
                found |= {node for node in one if self._origins.get(node, set()) & other}
        return found

    @property
    def gates(self) -> frozenset[str]:
        """Modules whose result is only ever a factor of something that it was computed from."""
        return frozenset(self._gates - self._others)

    def close(self) -> None:
        """End of the step: release its graph."""
        self.tracing = False
        self._owners.clear()
        self._origins.clear()

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
        return self._names(self.nearest_nodes(inputs))

    def nearest_nodes(self, inputs: Iterable[Tensor]) -> set[Any]:
        """The nodes of those outputs in the graph."""
        return self._nodes([tensor.grad_fn for tensor in inputs if tensor.grad_fn is not None])

    def _names(self, nodes: Iterable[Any]) -> set[str]:
        return {name for node in nodes for name in self._owners[node]}

    def _nodes(self, start: Iterable[Any]) -> set[Any]:
        """The nearest nodes that noted modules returned."""
        return self._walk(start)[0]

    def _walk(self, start: Iterable[Any]) -> tuple[set[Any], set[Any]]:
        """The nearest nodes that noted modules returned, and all nodes on the way."""
        waiting = list(start)
        seen: set[Any] = set(waiting)
        found: set[Any] = set()
        while waiting:
            node = waiting.pop()
            if node in self._owners:
                found.add(node)
                continue
            following = [before for before, _ in node.next_functions if before is not None]
            new = [before for before in following if before not in seen]
            seen.update(new)
            waiting += new
            if len(seen) > _MOST_NODES:
                break
        return found, seen


def _repeats(inputs: Sequence[Tensor]) -> bool:
    """Whether all rows of each tensor that has several are equal; not while a graph of a GPU is captured."""
    return not any(map(is_captured, inputs)) and all(
        torch.equal(each, each[:1].expand_as(each)) for each in inputs if each.dim() and is_dense(each)
    )

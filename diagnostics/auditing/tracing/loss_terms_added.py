"""What is added to a loss: terms that have no graph, and so no gradient."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ADDS = ("add", "radd", "iadd", "sub", "rsub", "isub")
_KEEPS = ("mul", "rmul", "imul", "div", "truediv", "neg", "detach")
"""Functions of one number that keep what detach() made of it."""


@dataclass(frozen=True)
class Addend:
    """A number without graph that was added to a number with one.

    Attributes:
        place: Text that says by which operation.
        value: The number.
        stopped: Whether detach() made it.
        untrained: Whether it is a loss of which neither side has a graph.
        sum: Node of the sum in the graph.
    """

    place: str
    value: float
    stopped: bool
    sum: Any
    untrained: bool = False


class AddedTerms:
    """The sums of one step, and the losses that it returned or ran backward on."""

    def __init__(self) -> None:
        self._addends: list[Addend] = []
        self._roots: list[Any] = []
        self._stopped: dict[int, Tensor] = {}  # tensors are kept, so that no id comes twice

    def end(self, loss: Any) -> None:
        """A loss of the step: a scalar with a graph, or anything else."""
        if isinstance(loss, Tensor) and loss.grad_fn is not None and loss.numel() == 1:
            self._roots.append(loss.grad_fn)

    def note(
        self,
        name: str,
        args: tuple[Any, ...],
        result: Any,
        place: Callable[[], str],
        is_untrained: Callable[[Any], bool] = lambda _: False,
    ) -> None:
        """A function was called.

        Args:
            is_untrained: Function that says whether a number is a loss of which neither side has a graph.
        """
        kind = name.strip("_")
        if not isinstance(result, Tensor) or result.numel() != 1 or result.is_nested:
            return
        if kind == "detach" or (kind in _KEEPS and any(id(each) in self._stopped for each in args)):
            self._stopped[id(result)] = result
        if kind not in _ADDS or not result.requires_grad or len(args) < 2:
            return
        graph = [isinstance(each, Tensor) and each.requires_grad for each in args[:2]]
        other = args[1] if graph[0] else args[0]
        if sum(graph) == 1 and (
            isinstance(other, float) or (isinstance(other, Tensor) and other.numel() == 1)
        ):
            stopped = id(other) in self._stopped
            addend = Addend(place(), float(other), stopped, result.grad_fn, is_untrained(other))
            self._addends.append(addend)

    def only_through(self, nodes: Collection[Any]) -> bool:
        """Whether every way from the losses to a weight goes through one of these nodes of the graph."""
        seen: set[Any] = set()
        front = [root for root in self._roots if root not in nodes]
        while front:
            node = front.pop()
            if node is None or node in seen or node in nodes:
                continue
            if hasattr(node, "variable"):
                return False
            seen.add(node)
            front += [parent for parent, _ in node.next_functions]
        return bool(self._roots)

    def of_losses(self) -> list[Addend]:
        """The addends of the losses, in the order of execution."""
        if not self._addends or not self._roots:
            return []
        seen: set[Any] = set()
        front = list(self._roots)
        while front:
            node = front.pop()
            if node is not None and node not in seen:
                seen.add(node)
                front += [parent for parent, _ in node.next_functions]
        return [each for each in self._addends if each.sum in seen]


@torch.no_grad()
def differing(first: list[Addend], second: list[Addend], tolerance: float) -> list[Addend]:
    """Addends of a step whose value is another one in the second run; none where the runs have different sums."""
    if [each.place for each in first] != [each.place for each in second]:
        return []
    pairs = zip(first, second, strict=True)
    return [one for one, other in pairs if abs(one.value - other.value) > tolerance * abs(one.value)]

"""Calls that add rows up in numbered places, as those of the nodes of a graph, all of which get one number."""

from __future__ import annotations

from torch import Tensor

from diagnostics.auditing.tracing.torch_call import TorchCall

_ADDS = ("index_add", "scatter_add", "scatter_reduce", "index_reduce")
_PLACES = 4
"""Places from which it is no chance that one gets everything."""
_ROWS = 16  # rows that are added


class AddedRows:
    """Calls that add up values with a graph.

    Attributes:
        places: By file and line: the operation, and for each call the numbers of rows and places, and the only place
            that rows are added to, -1 where there are several.
    """

    def __init__(self) -> None:
        self.places: dict[str, tuple[str, list[tuple[int, int, int]]]] = {}

    def wants(self, name: str) -> bool:
        """Those that add by an index."""
        return name.removesuffix("_") in _ADDS

    def note(self, call: TorchCall) -> None:
        """Note a call whose result has a graph."""
        dim, index = call.argument("dim", 1), call.argument("index", 2)
        into = call.argument("input", 0)
        if not (isinstance(into, Tensor) and isinstance(index, Tensor) and isinstance(dim, int)):
            return
        traced = isinstance(call.result, Tensor) and call.result.requires_grad
        if not traced or not into.dim() or not index.numel():
            return
        first = int(index.flatten()[0])
        place = first if bool((index == first).all()) else -1
        rows = index.shape[dim] if index.dim() > 1 else len(index)
        _, calls = self.places.setdefault(call.place, (str(call.operation()), []))
        calls.append((rows, into.shape[dim], place))

    def crowded(self) -> dict[str, tuple[str, int, int, int]]:
        """By file and line: the operation, and the rows, places and place of the last call, if each call has one."""
        return {
            line: (operation, *calls[-1])
            for line, (operation, calls) in self.places.items()
            if all(rows >= _ROWS and places >= _PLACES and place >= 0 for rows, places, place in calls)
        }

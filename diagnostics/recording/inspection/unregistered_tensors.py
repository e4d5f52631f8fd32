"""Finds tensors that learn outside the model: they receive gradient, and the model does not list them.

A tensor that is no `nn.Parameter`, and layers in a plain list, are used like any other but are missing in
`model.parameters()`, so that no optimiser and no checkpoint has them. They are read from the autograd graph between the
outputs and the inputs of a call. Inputs, and tensors that are made anew in each step, do not count: only a tensor
that is found in both of the first two recorded steps does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor, nn

from diagnostics.records import Stranger

_MOST_NODES = 10_000  # of one walk; a larger graph is searched no further


class Strangers:
    """Collects such tensors while `looking`; `found` has them afterwards."""

    def __init__(self) -> None:
        self.looking = True
        self.found: tuple[Stranger, ...] = ()
        self._met: dict[int, tuple[Tensor, str]] = {}  # of this step
        self._before: dict[int, tuple[Tensor, str]] | None = None  # of the step before

    def note(self, name: str, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
        """One call of a watched module or of the model; those inside it were noted before it."""
        for leaf in _leaves(list(inputs), outputs):
            self._met.setdefault(id(leaf), (leaf, name))

    def close(self, known: Collection[int]) -> None:
        """End of the step.

        Args:
            known: The id of every tensor that the model or an optimiser holds.
        """
        met = {key: entry for key, entry in self._met.items() if key not in known}
        self._met = {}
        if self._before is None and met:
            self._before = met
            return
        same = [entry for key, entry in met.items() if key in (self._before or {})]
        self.found = tuple(
            Stranger(name, tuple(leaf.shape), isinstance(leaf, nn.Parameter)) for leaf, name in same
        )
        self.looking, self._before = False, None


def _leaves(inputs: list[Tensor], outputs: Iterable[Tensor]) -> list[Tensor]:
    """The tensors that collect gradient, on the paths from the outputs back to the inputs."""
    given = {id(tensor) for tensor in inputs}
    seen: set[Any] = {tensor.grad_fn for tensor in inputs if tensor.grad_fn is not None}
    waiting = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    waiting = [node for node in waiting if node not in seen]
    found: list[Tensor] = []
    while waiting and len(seen) < _MOST_NODES:
        node = waiting.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in given:
            found.append(leaf)
        new = {before for before, _ in node.next_functions if before is not None} - seen
        seen |= new
        waiting += new
    return found

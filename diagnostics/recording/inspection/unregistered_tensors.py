"""Finds tensors that learn outside the model: they receive gradient, and the model does not list them.

A tensor that is no `nn.Parameter`, and layers in a plain list, are used like any other but are missing in
`model.parameters()`, so that no optimiser and no checkpoint has them. They are read from the autograd graph between the
outputs and the inputs of a call. Inputs, and plain tensors that are made anew in each step, do not count: only a tensor
that is found in both of the first two recorded steps does, and a parameter that another one replaces in the second.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
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

    def close(self, model: nn.Module, known: Collection[int]) -> None:
        """End of the step.

        Args:
            known: The id of every tensor that the model or an optimiser holds.
        """
        met = {key: entry for key, entry in self._met.items() if key not in known}
        self._met = {}
        if self._before is None and met:
            self._before = met
            return
        before = self._before or {}
        derived = find_derived(model) if met else {}
        kept = [
            Stranger(
                name, tuple(leaf.shape), isinstance(leaf, nn.Parameter), derived=derived.get(id(leaf), ())
            )
            for key, (leaf, name) in met.items()
            if key in before
        ]
        self.found = (*kept, *_remade(before, met))
        self.looking, self._before = False, None


def _remade(
    before: Mapping[int, tuple[Tensor, str]], met: Mapping[int, tuple[Tensor, str]]
) -> Iterator[Stranger]:
    """Parameters of the second step whose module had others of the same shape in the first one."""
    places = [
        (name, leaf.shape) for key, (leaf, name) in before.items() if key not in met and _is_parameter(leaf)
    ]
    for key, (leaf, name) in met.items():
        if key not in before and _is_parameter(leaf) and (name, leaf.shape) in places:
            yield Stranger(name, tuple(leaf.shape), layer=True, remade=True)


def _is_parameter(leaf: Tensor) -> bool:
    return isinstance(leaf, nn.Parameter)


def find_derived(model: nn.Module) -> dict[int, tuple[str, ...]]:
    """The id of a parameter -> attributes of the modules that hold what was computed from it, and not itself."""
    found: dict[int, tuple[str, ...]] = {}
    for prefix, module in model.named_modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and value.grad_fn is not None:
                for leaf in _leaves([], [value]):
                    full = f"{prefix}.{name}".removeprefix(".")
                    found[id(leaf)] = (*found.get(id(leaf), ()), full)
    return found


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

"""Modules that a model holds under several names, and weights that were tied once or should be.

`self.target = self.policy` holds one module twice: `named_modules()` lists it once, and every update of the policy
moves the target. A tie that is lost, as by `load_state_dict(assign=True)` or a deep copy, leaves two tensors of equal
values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from diagnostics.errors import InvalidValue
from diagnostics.recording.updates.watched_parameters import has_values
from diagnostics.records import LostTie
from diagnostics.selection import check_patterns

Ties = Sequence[Sequence[str]]
"""Groups of names of modules or parameters that must hold the same tensors."""


def find_aliases(model: nn.Module, ties: Ties) -> dict[str, tuple[str, ...]]:
    """First name of a module with weights -> its other names; what is declared to be tied is left out."""
    names: dict[int, list[str]] = {}
    weighty = {id(module) for module in model.modules() if any(True for _ in module.parameters())}
    for name, module in model.named_modules(remove_duplicate=False):
        if id(module) in weighty:
            names.setdefault(id(module), []).append(name)
    found: dict[str, tuple[str, ...]] = {}
    for first, *others in names.values():
        inside = any(f"{first}.".startswith(f"{known}.") for known in found)
        declared = any(all(each in group for each in (first, *others)) for group in ties)
        if others and not inside and not declared:
            found[first] = tuple(others)
    return found


def check_ties(model: nn.Module, ties: Ties) -> None:
    """Refuse groups of fewer than two names, and names that the model lacks.

    Raises:
        InvalidValue: There is one.
    """
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    names += [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for group in ties:
        if isinstance(group, str) or len(group) < 2:
            raise InvalidValue(
                "monitor.tie-of-one",
                "expect_tied takes groups of two or more names, such as [('embed.weight', 'head.weight')];"
                " found {got!r}",
                got=group,
            )
        check_patterns("expect_tied", group, names)


def find_lost_ties(model: nn.Module, ties: Ties) -> tuple[LostTie, ...]:
    """Declared ties that do not hold; and embeddings whose values a linear layer holds in a tensor of its own."""
    lost = [LostTie(tuple(group), declared=True) for group in ties if not _is_tied(model, group)]
    declared = {name for group in ties for name in group}
    lost += [
        LostTie(pair, declared=False)
        for pair in _equal_weights(model)
        if not any(name in declared or name.rpartition(".")[0] in declared for name in pair)
    ]
    return tuple(lost)


def _is_tied(model: nn.Module, group: Sequence[str]) -> bool:
    held = [_tensors(model, name) for name in group]
    return all(each == held[0] for each in held)


def _tensors(model: nn.Module, name: str) -> set[int]:
    """The ids of the parameters that a name holds; of modules those without one-dimensional ones, such as a bias."""
    found = dict(model.named_parameters(remove_duplicate=False))
    if name in found:
        return {id(found[name])}
    own = [weight for weight in model.get_submodule(name).parameters() if weight.dim() > 1]
    return {id(weight) for weight in own or model.get_submodule(name).parameters()}


@torch.no_grad()
def _equal_weights(model: nn.Module) -> Iterator[tuple[str, str]]:
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    others = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for first, embedding in layers:
        for second, linear in others:
            if _hold_the_same(embedding.weight, linear.weight):
                yield f"{first}.weight", f"{second}.weight"


_FEWEST = 8
"""Equal rows that are no accident."""


def _hold_the_same(one: Tensor, other: Tensor) -> bool:
    """Whether half of the rows of the smaller one are those of the other, at the same places.

    A vocabulary that grows gets new rows, which are drawn anew in each of the two.
    """
    if one is other or not has_values(one) or not has_values(other) or one.shape[1] != other.shape[1]:
        return False
    if one.device != other.device or not one.requires_grad or not other.requires_grad:
        return False
    count = min(len(one), len(other))
    first, second = one[:count], other[:count]
    same = (first == second).all(1) & (first != first[:, :1]).any(1)
    return int(same.sum()) >= max(count / 2, min(_FEWEST, count))

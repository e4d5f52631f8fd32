"""Copies of a running program's models that no optimiser holds, as targets and averages: do they follow?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diagnostics.auditing.scripts.live_objects import LiveObjects
from diagnostics.causes import Cause
from diagnostics.findings import Evidence, Finding
from diagnostics.rules.families.weights.targets import (
    EVALUATED_STILL,
    MOVES_AWAY,
    NO_LAG,
    SET_BACK_TO_IT,
    STANDS_STILL,
    TARGET001,
)
from diagnostics.rules.rule import CRITICAL, NOTE, WARNING
from diagnostics.selection import has_role

_MEASURED = 8
"""Steps in which their weights are copied to see where they move."""
_FEWEST = 5  # of these, that must all say the same
_STILL = 10
"""Steps after which an average that is evaluated should have been written to."""
_TWICE = 2  # once may be the start of a second run
_SHOWN = 16  # numbers of a weight
_RARELY = 4
"""Steps for each time that it is called between two, from which that is an evaluation and no part of the training."""
_LAG = 0.05
"""Distance to the source relative to its change in the step: an average keeps at least half."""


@dataclass(eq=False)
class _Follower:
    """A copy, with what was seen of it.

    Attributes:
        name: Name of the variable or attribute that holds it.
        still: Steps in which nothing wrote to it, until the first write.
        away, equal, moved: Measured steps in which it moved away, equals its source, and moved.
        inside: Whether it is called within a step.
        apart: Whether the source differed at the end of a step.
        back: Steps that set the source back to it.
        between: Steps without a write after which it is called, before the next one begins.
    """

    name: str
    module: nn.Module
    source: nn.Module
    shown: list[Tensor]
    still: int = 0
    written: bool = False
    away: int = 0
    equal: int = 0
    moved: int = 0
    measured: int = 0
    inside: bool = False
    apart: bool = False
    back: int = 0
    between: set[int] = field(default_factory=set)
    before: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def weights(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Those of the copy and of the source by name, as far as the program has not made them differ in shape."""
        own, others = dict(self.module.named_parameters()), dict(self.source.named_parameters())
        pairs = {name: (each.detach(), others[name].detach()) for name, each in own.items() if name in others}
        return {name: pair for name, pair in pairs.items() if _fit(*pair)}


class Followers:
    """The copies that exist before the first update."""

    def __init__(self) -> None:
        self._found: dict[int, _Follower] = {}
        self._inside: dict[int, _Follower] = {}  # by the id of each module in one

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The copies by name."""
        return {each.name: each.module for each in self._found.values()}

    def name(self, module: nn.Module) -> str | None:
        """The name of a copy; None for any other module."""
        found = self._found.get(id(module))
        return None if found is None else found.name

    def look(self, roots: Iterable[nn.Module], live: LiveObjects) -> None:
        """Add the modules that hold the numbers of a model in tensors of their own, and that no optimiser holds."""
        for root in roots:
            for each in live.copies(root):
                if id(each) not in self._found:
                    follower = _Follower(live.path(each), each, root, _show(each))
                    self._found[id(each)] = follower
                    self._inside.update((id(part), follower) for part in each.modules())

    def note_call(self, module: nn.Module, inside: bool) -> None:
        """A module is called, within a training step or outside; perhaps a copy or a part of one."""
        found = self._inside.get(id(module))
        if found is not None:
            found.inside |= inside
            if not inside and not found.written:
                found.between.add(found.still)

    @torch.no_grad()
    def begin(self) -> None:
        """A step begins."""
        for each in self._found.values():
            if each.measured < _MEASURED:
                each.before = {
                    name: (own.clone(), other.clone()) for name, (own, other) in each.weights().items()
                }

    @torch.no_grad()
    def end(self) -> None:
        """A step has ended that is recorded."""
        for each in self._found.values():
            shown = _show(each.module)
            each.written |= not all(map(_are_equal, shown, each.shown))
            each.still += not each.written
            each.shown = shown
            equal = all(map(_are_equal, _show(each.source), shown))
            each.back += each.apart and equal and not each.written
            each.apart = not equal
            if each.before:
                _measure(each)

    def findings(self) -> list[Finding]:
        """TARGET001 for those that do not follow."""
        return [found for each in self._found.values() if (found := _judge(each)) is not None]


def _show(module: nn.Module) -> list[Tensor]:
    """Some numbers of each weight: an average that is updated changes nearly all. Writes to .data are not counted."""
    return [weight.detach().flatten()[:_SHOWN].clone() for weight in module.parameters()]


def _fit(one: Tensor, other: Tensor) -> bool:
    """Whether they can be subtracted: a program may move, reshape or offload what was a copy."""
    return one.shape == other.shape and one.device == other.device and not one.is_meta


def _are_equal(one: Tensor, other: Tensor) -> bool:
    return _fit(one, other) and torch.equal(one, other)


def _measure(follower: _Follower) -> None:
    before, follower.before = follower.before, {}
    product = moved = gap = change = 0.0
    now = follower.weights()
    for name in [each for each in before if each in now]:
        (own, other), (was, source) = now[name], before[name]
        if not _fit(own, was):
            continue
        fall, way = (own - was).float(), (other - was).float()
        product += float((fall * way).sum())
        moved += float(fall.square().sum())
        gap += float((other - own).float().square().sum())
        change += float((other - source).float().square().sum())
    if not change:
        return
    follower.measured += 1
    follower.moved += moved > 0
    follower.away += moved > 0 and product <= 0
    follower.equal += moved > 0 and gap < _LAG**2 * change


def _judge(follower: _Follower) -> Finding | None:
    steps = follower.measured
    if follower.inside and not follower.written and follower.back >= _TWICE:
        return _finding(follower, SET_BACK_TO_IT, True)
    if not follower.written and follower.still >= _FEWEST:
        called = [each for each in follower.between if each >= _STILL]
        rarely = _RARELY * len(follower.between) <= follower.still
        evaluated = bool(called) and rarely and not follower.inside
        return _finding(follower, EVALUATED_STILL if evaluated else STANDS_STILL, evaluated)
    if steps >= _FEWEST and follower.away == steps:
        return _finding(follower, MOVES_AWAY, True)
    if steps >= _FEWEST and follower.equal == steps and has_role(follower.name):
        return _finding(follower, NO_LAG, True)
    return None


def _finding(follower: _Follower, cause: Cause, accuses: bool) -> Finding:
    pairs = list(follower.weights().values())
    gap = sum(float((other - own).float().square().sum()) for own, other in pairs) ** 0.5
    size = sum(float(other.float().square().sum()) for _, other in pairs) ** 0.5
    severity = NOTE if not accuses else CRITICAL if cause in (MOVES_AWAY, SET_BACK_TO_IT) else WARNING
    message = f"{follower.name}: {gap / (size or 1.0):.3g} away from the model, relative to its norm"
    evidence = Evidence(
        TARGET001.metric, gap / (size or 1.0), None, 0, max(follower.still, follower.measured) - 1
    )
    return TARGET001.finding(follower.name, message, evidence, cause, severity)

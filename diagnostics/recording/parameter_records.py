"""Turns what one step left of the watched parameters into their records, once its numbers are on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from diagnostics.recording.gradient_passes import PassEvents
from diagnostics.recording.optimizer_updates import UpdateKeys
from diagnostics.recording.readout import Readout
from diagnostics.recording.watched_parameters import Tracked
from diagnostics.records import Absent, BackwardPasses, Number, OptimizerPlace, ParameterRecord, Reach

_NONE = Absent("no gradient arrived in this step", "no-gradient")
NO_REACH = Reach("none", _NONE, _NONE, _NONE)
_TAKEN = Absent("the gradient arrived and was taken away before the backward pass ended", "taken-away")
_TAKEN_AWAY = Reach("some", _TAKEN, _TAKEN, _TAKEN)
_NOWHERE = Absent("no gradient came to a watched module", "no-gradient")
_IN_NO_GROUP = Absent("in no group of the optimisers", "in-no-group")
_NO_OPTIMIZER = Absent("no optimiser was given", "no-optimizer")
_NO_STEP = Absent("its optimiser did not step", "no-step")
_NOT_FOUND = Absent("the optimiser found no gradient", "no-gradient")


@dataclass(frozen=True)
class OptimizerGroup:
    """The group of an optimiser that holds a parameter; see `OptimizerPlace`."""

    optimizer: int
    group: int
    lr: Number
    weight_decay: Number
    eps: Number


@dataclass(frozen=True, eq=False)
class ParameterStep:
    """What one step left of the parameters, by position; keys are those of its readout.

    Attributes:
        tracked: The parameters, with their names and owners.
        requires_grad, replaced: As they were at the end of the step.
        groups: Position -> the group that holds it.
        steps: Number of steps of each optimiser, stops_itself whether it is one that decides when to stop.
        measured: Positions, norms and counts of the gradients after each backward pass.
        at_optimizer: Positions and norms of the gradients that optimisers found.
        left: Positions and norms of what earlier steps left in `.grad`; None where no gradient came to a module.
        scales: Optimiser -> scale of its GradScaler.
        weight_key, update_key: Norms of the weights at the entry, and of their change.
        changed_key: Numbers that are not 0 where a parameter changed.
        broken: Parameters with values that are not finite; None where the weights themselves have to be looked at.
        updates: What the optimisers changed.
        passes: The backward passes.
        assigned: Parameters whose gradient was assigned.
        arrived: Parameters that a gradient came to, on this process.
        largest: The largest norm of each gradient so far; it grows with each step.
    """

    tracked: Sequence[Tracked]
    requires_grad: Sequence[bool]
    replaced: Sequence[bool]
    groups: Mapping[int, OptimizerGroup]
    steps: tuple[int, ...]
    stops_itself: Sequence[bool]
    measured: Sequence[tuple[Sequence[int], int, int]]
    at_optimizer: Sequence[tuple[Sequence[int], int]]
    left: tuple[Sequence[int], int] | None
    scales: Mapping[int, int]
    weight_key: int
    update_key: int
    changed_key: int
    broken: frozenset[int] | None
    updates: UpdateKeys
    passes: PassEvents
    assigned: frozenset[int]
    arrived: frozenset[int]
    largest: dict[int, float] = field(repr=False)

    def leftover(self, readout: Readout) -> dict[int, float] | None:
        """Position -> norm of what earlier steps left in `.grad`; None where no gradient came to a watched module."""
        return (
            None if self.left is None else dict(zip(self.left[0], readout.numbers(self.left[1]), strict=True))
        )

    def records(
        self, readout: Readout, arrived: frozenset[int], leftover: Mapping[int, float] | None
    ) -> tuple[dict[str, ParameterRecord], BackwardPasses]:
        """The records of all parameters by name, and the backward passes of the step.

        Args:
            arrived: Positions of the parameters that a gradient came to on any process.
            leftover: What was left over of earlier steps.
        """
        gradients: dict[int, tuple[float, float]] = {}
        for indices, norms, counts in self.measured:
            values = zip(readout.numbers(norms), readout.numbers(counts), strict=True)
            gradients.update(zip(indices, values, strict=True))
        seen: dict[int, float] = {}
        for indices, key in self.at_optimizer:
            seen.update(zip(indices, readout.numbers(key), strict=True))
        factors = {number: readout.numbers(key)[0] for number, key in self.scales.items()}
        reaches = [
            reach(item.numel, gradients.get(index)) if index in arrived else NO_REACH
            for index, item in enumerate(self.tracked)
        ]
        layers = self._layer_sizes(reaches)
        updates, changed = readout.numbers(self.update_key), readout.numbers(self.changed_key)
        kept = self.updates.kept(readout, len(updates))
        passes, carried = self.passes.evaluate(readout, [item.name for item in self.tracked])
        broken = self._broken(updates) if self.broken is None else self.broken
        records = {}
        for index, (item, weight_norm, came) in enumerate(
            zip(self.tracked, readout.numbers(self.weight_key), reaches, strict=True)
        ):
            if came.finite and not isinstance(came.norm, Absent):
                self.largest[index] = max(came.norm, self.largest.get(index, 0.0))
            records[item.name] = ParameterRecord(
                owner=item.owner,
                numel=item.numel,
                requires_grad=self.requires_grad[index],
                expect_frozen=item.expect_frozen,
                reach=came,
                place=self._place(index, seen, came, factors),
                weight_norm=weight_norm,
                update_norm=updates[index],
                changed=changed[index] != 0.0,
                leftover=_leftover(leftover, index),
                shared=item.shared,
                rounding=item.rounding,
                layer_size=layers[item.layer],
                kept=kept[index],
                replaced=self.replaced[index],
                carried=carried.get(index, "no"),
                assigned=index in self.assigned,
                largest=self.largest.get(index, 0.0),
                broken=index in broken,
            )
        return records, passes

    @torch.no_grad()
    def _broken(self, updates: Sequence[float]) -> frozenset[int]:
        """Parameters that are not finite now; only where the norm of the change is not, a norm may overflow alone."""
        suspects = (index for index, update in enumerate(updates) if update - update != 0.0)
        return frozenset(
            index for index in suspects if not bool(torch.isfinite(self.tracked[index].parameter).all())
        )

    def _layer_sizes(self, reaches: Sequence[Reach]) -> dict[str, float]:
        """Layer -> the largest root mean square of a gradient in it."""
        sizes: dict[str, float] = {}
        for item, came in zip(self.tracked, reaches, strict=True):
            sizes[item.layer] = max(came.size(item.numel), sizes.get(item.layer, 0.0))
        return sizes

    def _place(
        self, index: int, seen: dict[int, float], came: Reach, scales: Mapping[int, float]
    ) -> OptimizerPlace | Absent:
        group = self.groups.get(index)
        if group is None:
            return _IN_NO_GROUP if self.steps else _NO_OPTIMIZER
        stepped = self.steps[group.optimizer] > 0
        gradient: Literal["none", "zero", "nonzero"] | Absent
        norm: Number
        if not stepped:
            gradient = norm = _NO_STEP
        elif index not in seen:
            gradient, norm = "none", _NOT_FOUND
        else:
            norm = seen[index]
            # squares underflow below 1e-23: a gradient that was tiny all along is not one cleared to zero
            tiny = norm == 0.0 and came.norm == 0.0 and came.kind in ("some", "all")
            gradient = "zero" if norm == 0.0 and not tiny else "nonzero"
        return OptimizerPlace(
            group.optimizer,
            group.group,
            group.lr,
            group.weight_decay,
            group.eps,
            stepped,
            gradient,
            norm,
            scales.get(group.optimizer, 1.0),
            self.stops_itself[group.optimizer],
        )


def reach(numel: int, measured: tuple[float, float] | None) -> Reach:
    """How far a gradient of this norm and this number of non-zero elements came to a parameter of so many."""
    if measured is None:
        return _TAKEN_AWAY
    norm, count = measured
    share = count / numel
    kind: Literal["zero", "some", "all"] = "zero" if count == 0 else "all" if share >= 1 else "some"
    return Reach(kind, min(share, 1.0), norm - norm == 0.0, norm)


def plain_number(value: Any, name: str) -> Number:
    """A setting of an optimiser as a number; Absent where it is something else, such as a tensor."""
    if isinstance(value, (int, float)):
        return float(value)
    return Absent(f"{name} is a {type(value).__name__}", "no-number")


def _leftover(norms: Mapping[int, float] | None, index: int) -> Literal["none", "zero", "nonzero"] | Absent:
    if norms is None:
        return _NOWHERE
    if index not in norms:
        return "none"
    return "nonzero" if norms[index] else "zero"

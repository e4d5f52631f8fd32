"""Turns what one step left of the watched parameters into their records, once its numbers are on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

import torch

from diagnostics.recording.readout import Readouts
from diagnostics.recording.updates.gradient_passes import PassEvents
from diagnostics.recording.updates.optimizer_updates import UpdateKeys
from diagnostics.recording.updates.watched_parameters import Tracked
from diagnostics.records import Absent, BackwardPasses, Number, OptimizerPlace, ParameterRecord, Reach
from diagnostics.records.columns import Column, largest_of

_NONE = Absent("no gradient arrived in this step", "no-gradient")
NO_REACH = Reach("none", _NONE, _NONE, _NONE)
_TAKEN = Absent("the gradient arrived and was taken away before the backward pass ended", "taken-away")
_TAKEN_AWAY = Reach("some", _TAKEN, _TAKEN, _TAKEN)
_NOWHERE = Absent("no gradient came to a watched module", "no-gradient")
_IN_NO_GROUP = Absent("in no group of the optimisers", "in-no-group")
_NO_OPTIMIZER = Absent("no optimiser was given", "no-optimizer")
_NO_STEP = Absent("its optimiser did not step", "no-step")
_NOT_FOUND = Absent("the optimiser found no gradient", "no-gradient")


Settings = tuple[Number, Number, Number, Number, Number]
"""Rate, weight decay, eps and the two averaging factors of a group; see `OptimizerPlace`."""


@dataclass(frozen=True, eq=False)
class ParameterStep:
    """What one step left of the parameters, by position; keys are those of its readout.

    Attributes:
        tracked: The parameters, with their names and owners.
        requires_grad, replaced: As they were at the end of the step.
        remade: Positions of those that the step itself replaced, by others without gradient.
        groups: Position -> optimiser and group that hold it.
        settings: Optimiser and group -> rate, weight decay, eps and averaging factors.
        steps: Number of steps of each optimiser, stops_itself whether it is one that decides when to stop.
        measured: Positions, norms and counts of the gradients after each backward pass.
        at_optimizer: Positions and norms of the gradients that optimisers found.
        left: Positions and norms of what earlier steps left in `.grad`; None where no gradient came to a module.
        scales: Optimiser -> scale of its GradScaler.
        weight_key, update_key: Norms of the weights at the entry, and of their change.
        changed_key: Numbers that are not 0 where a parameter changed.
        still: Parameters that were not copied: of their change is known whether there is one.
        moved: Those of them that turn out to have changed are added, and copied from then on.
        broken: Parameters with values that are not finite; None where the weights themselves have to be looked at.
        updates: What the optimisers changed.
        passes: The backward passes.
        assigned: Parameters whose gradient was assigned.
        arrived: Parameters that a gradient came to, on this process.
        largest: The largest norm of each gradient so far; it grows with each step.
        read: Positions of the parameters whose gradient was read, by torch.autograd.grad(), and not written to `.grad`.
        idle: Tensors that optimisers hold, that are not in the model, and that had no gradient.
    """

    tracked: Sequence[Tracked]
    requires_grad: tuple[bool, ...]
    replaced: tuple[bool, ...]
    remade: frozenset[int]
    groups: Mapping[int, tuple[int, int]]
    settings: Mapping[tuple[int, int], Settings]
    steps: tuple[int, ...]
    stops_itself: Sequence[bool]
    measured: Sequence[tuple[Sequence[int], int, int]]
    at_optimizer: Sequence[tuple[Sequence[int], int]]
    left: tuple[Sequence[int], int] | None
    scales: Mapping[int, int]
    weight_key: int
    update_key: int
    changed_key: int
    still: frozenset[int]
    moved: set[int] = field(repr=False)
    broken: frozenset[int] | None
    updates: UpdateKeys
    passes: PassEvents
    assigned: frozenset[int]
    arrived: frozenset[int]
    largest: dict[int, float] = field(repr=False)
    idle: int = 0
    read: frozenset[int] = frozenset()

    @property
    def kind(self) -> tuple[Any, ...] | None:
        """What is the same in all steps of one kind; None where backward passes have to be followed one by one."""
        passes = self.passes.kind
        if passes is None:
            return None
        return (
            passes,
            self.requires_grad,
            self.replaced,
            self.remade,
            tuple(self.groups.items()),
            tuple(isinstance(value, Absent) for each in self.settings.values() for value in each),
            self.steps,
            tuple(tuple(indices) for indices, *_ in self.measured),
            tuple(tuple(indices) for indices, _ in self.at_optimizer),
            None if self.left is None else tuple(self.left[0]),
            tuple(self.scales),
            len(self.updates.keys),
            self.still,
            self.broken,
            self.assigned,
            self.arrived,
            self.idle,
            self.read,
        )

    def leftover(self, readout: Readouts) -> dict[int, Any] | None:
        """Position -> norm of what earlier steps left in `.grad`; None where no gradient came to a watched module."""
        return (
            None if self.left is None else dict(zip(self.left[0], readout.numbers(self.left[1]), strict=True))
        )

    def records(
        self,
        readout: Readouts,
        arrived: frozenset[int],
        leftover: Mapping[int, Any] | None,
        settings: Mapping[tuple[int, int], Settings],
    ) -> tuple[dict[str, ParameterRecord], BackwardPasses]:
        """The records of all parameters by name, and the backward passes of the step.

        Args:
            arrived: Positions of the parameters that a gradient came to on any process.
            leftover: What was left over of earlier steps.
            settings: Those of the step, or columns.
        """
        gradients: dict[int, tuple[Any, Any]] = {}
        for indices, norms, counts in self.measured:
            values = zip(readout.numbers(norms), readout.numbers(counts), strict=True)
            gradients.update(zip(indices, values, strict=True))
        seen: dict[int, Any] = {}
        for indices, key in self.at_optimizer:
            seen.update(zip(indices, readout.numbers(key), strict=True))
        factors = {number: readout.numbers(key)[0] for number, key in self.scales.items()}
        reaches = [
            reach(item.numel, gradients.get(index)) if index in arrived else NO_REACH
            for index, item in enumerate(self.tracked)
        ]
        layers = self._layer_sizes(reaches)
        updates, changed = readout.numbers(self.update_key), readout.numbers(self.changed_key)
        for index in self.still:
            if changed[index] != 0.0:
                self.moved.add(index)
                updates[index] = self.updates.estimate(readout, index, self.tracked[index].numel)
        kept = self.updates.kept(readout, len(updates))
        passes, carried = self.passes.evaluate(readout, [item.name for item in self.tracked])
        broken = self._broken(updates) if self.broken is None else self.broken
        records = {}
        for index, (item, weight_norm, came) in enumerate(
            zip(self.tracked, readout.numbers(self.weight_key), reaches, strict=True)
        ):
            records[item.name] = ParameterRecord(
                owner=item.owner,
                numel=item.numel,
                requires_grad=self.requires_grad[index],
                expect_frozen=item.expect_frozen,
                reach=came,
                place=self._place(index, seen, came, factors, settings),
                weight_norm=weight_norm,
                update_norm=updates[index],
                changed=changed[index] != 0.0,
                leftover=_leftover(leftover, index),
                shared=item.shared,
                rounding=item.rounding,
                layer_size=layers[item.layer],
                kept=kept[index],
                replaced=self.replaced[index],
                remade=index in self.remade,
                carried=carried.get(index, "no"),
                assigned=index in self.assigned,
                read=index in self.read,
                largest=self._largest_so_far(index, came.norm, readout),
                broken=index in broken,
            )
        return records, passes

    def _largest_so_far(self, index: int, norm: Any, readout: Readouts) -> Any:
        """The largest finite norm of the gradient of a parameter, up to each step."""
        if isinstance(norm, Absent):
            return self.largest.get(index, 0.0)
        known = readout.remembered.get(index)
        if known is None:
            values = norm.values if isinstance(norm, Column) else [norm]
            finite = [value if value - value == 0.0 else 0.0 for value in values]
            start = self.largest.get(index, 0.0)
            known = readout.remembered[index] = list(accumulate(finite, max, initial=start))[1:]
            self.largest[index] = known[-1]
        return readout.column(known)

    @torch.no_grad()
    def _broken(self, updates: Sequence[Any]) -> frozenset[int]:
        """Parameters that are not finite now; only where the norm of the change is not, a norm may overflow alone."""
        suspects = (index for index, update in enumerate(updates) if update - update != 0.0)
        return frozenset(
            index for index in suspects if not bool(torch.isfinite(self.tracked[index].parameter).all())
        )

    def _layer_sizes(self, reaches: Sequence[Reach]) -> dict[str, Any]:
        """Layer -> the largest root mean square of a gradient in it."""
        sizes: dict[str, list[Any]] = {}
        for item, came in zip(self.tracked, reaches, strict=True):
            sizes.setdefault(item.layer, []).append(came.size(item.numel))
        return {layer: largest_of(found) for layer, found in sizes.items()}

    def _place(
        self,
        index: int,
        seen: Mapping[int, Any],
        came: Reach,
        scales: Mapping[int, Any],
        settings: Mapping[tuple[int, int], Settings],
    ) -> OptimizerPlace | Absent:
        held = self.groups.get(index)
        if held is None:
            return _IN_NO_GROUP if self.steps else _NO_OPTIMIZER
        optimizer, group = held
        stepped = self.steps[optimizer] > 0
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
            optimizer,
            group,
            *settings[held],
            stepped,
            gradient,
            norm,
            scales.get(optimizer, 1.0),
            self.stops_itself[optimizer],
        )


def reach(numel: int, measured: tuple[Any, Any] | None) -> Reach:
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


def _leftover(norms: Mapping[int, Any] | None, index: int) -> Literal["none", "zero", "nonzero"] | Absent:
    if norms is None:
        return _NOWHERE
    if index not in norms:
        return "none"
    return "nonzero" if norms[index] else "zero"

"""Follows each backward pass until an optimiser applies its gradient, or something clears it.

A parameter's `.grad` holds the sum of the backward passes since it was last cleared. Whether a sum is the intended one
is judged when an optimiser applies it: gradients that were there before and are cleared in time, as those of a
discriminator after the generator's step, do no harm.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from diagnostics.recording.readout import Readouts
from diagnostics.recording.tensors import Scalars
from diagnostics.records import BackwardPasses, Carried

_SAME = (
    1e-3  # clipping scales all gradients alike, up to rounding; a gradient assigned by hand differs in size
)
_MOST_HELD = (
    64  # passes in one sum that are followed one by one; a longer accumulation loses some in the middle
)
_TWICE = 1e-6  # a sum of two equal numbers is exact; the norm of it is rounded


@dataclass
class _Pass:
    """One backward pass: what it reached, with the norms of the sums that it left, and what became of it."""

    reached: dict[int, float]
    before: dict[int, float]  # the sums that were there when it began
    task: int
    lost: set[int] = field(default_factory=set)
    used: set[int] = field(default_factory=set)  # parameters to which an optimiser applied it
    applied: dict[int, int] = field(default_factory=dict)  # optimiser -> passes begun before it stepped


@dataclass
class PassEvent:
    """What happened to gradients while the step ran."""

    kind: str  # "begin" or "end" of a backward pass, or "step" of an optimiser
    indices: list[int]
    norms: Scalars
    cleared: set[int] = field(default_factory=set)  # of "begin": their gradient is gone or another tensor
    optimizer: int = -1
    task: int = -1  # number of the pass in torch
    version: int = 0  # of the first weight that the pass reached: whether weights were changed since
    shown: tuple[float, ...] = ()  # some numbers of it
    key: int = -1


class PassHistory:
    """The backward passes of all steps so far, and what became of them."""

    def __init__(self) -> None:
        self._passes: dict[int, _Pass] = {}
        self._held: dict[int, list[int]] = {}  # parameter -> passes whose gradient its `.grad` holds
        self._begun = 0

    def forget(self) -> None:
        """Nothing is known about what `.grad` holds: a step ended by an exception, or its events are not known."""
        self._held, self._passes = {}, {}

    def evaluate(
        self, events: Sequence[PassEvent], gone: Collection[int], readout: Readouts, names: Sequence[str]
    ) -> tuple[BackwardPasses, dict[int, Carried]]:
        """What became of the passes of a step, and which parameters were updated with a sum that mixes updates.

        Args:
            events: Events of the step, in their order.
            gone: Parameters that hold no gradient when the step ends.
        """
        plain = not self._held and is_plain(events, gone)
        if plain and all(readout.numbers(events[2].key)):
            self._begun += 1
            self._passes = {}
            return BackwardPasses(1, lost=((events[1].task, frozenset()),)), {}
        carried: dict[int, Carried] = {}
        mine: list[_Pass] = []
        stepped: set[int] = set()
        proportional = True
        for event in events:
            sizes = dict(zip(event.indices, readout.numbers(event.key), strict=True))
            if event.kind == "begin":
                self._clear({*event.cleared, *(index for index, size in sizes.items() if size == 0.0)})
                self._begun += 1
            elif event.kind == "end":
                mine.append(self._add(sizes, event.task))
            else:
                stepped.add(event.optimizer)
                proportional &= self._apply(event.optimizer, sizes, carried)
        self._clear(gone)
        self._forget()
        discarded = [
            each.task for each in mine if each.reached and each.lost >= set(each.reached) and not each.applied
        ]
        unchanged = _weights_unchanged(events)
        judged = bool(stepped) and proportional and unchanged and len(discarded) < len(mine)
        thrown = frozenset(discarded if judged else ())
        lost = tuple(
            (each.task, frozenset(names[index] for index in each.lost)) for each in mine if each.applied
        )
        return BackwardPasses(len(mine), thrown, _repeated(mine), lost), carried

    def skip(self, events: Sequence[PassEvent], readouts: Readouts, steps: int) -> bool:
        """Pass over steps of one kind that are all plain; False, and nothing is done, where they are not."""
        if self._held or not all(all(column.values) for column in readouts.numbers(events[2].key)):
            return False
        self._begun += steps
        self._passes = {}
        return True

    def _add(self, sizes: dict[int, float], task: int) -> _Pass:
        added = _Pass(sizes, {index: self._sum_before(index) for index in sizes}, task)
        self._passes[self._begun] = added
        for index in sizes:
            held = self._held.setdefault(index, [])
            if len(held) >= _MOST_HELD:
                del held[1]
            held.append(self._begun)
        return added

    def _sum_before(self, index: int) -> float:
        held = self._held.get(index)
        return self._passes[held[-1]].reached.get(index, 0.0) if held else 0.0

    def _clear(self, indices: Iterable[int]) -> None:
        for index in indices:
            for number in self._held.pop(index, ()):
                if index not in self._passes[number].used:
                    self._passes[number].lost.add(index)

    def _apply(self, optimizer: int, sizes: Mapping[int, float], carried: dict[int, Carried]) -> bool:
        """An optimiser applies the sums; returns whether these are what the passes left, up to one factor."""
        ratios = []
        applied: set[int] = set()
        for index, size in sizes.items():
            held = self._held.get(index)
            if not held or size == 0.0:
                continue
            newest = held[-1]
            for number in held[:-1]:
                for other, begun in self._passes[number].applied.items():
                    if begun < newest:
                        carried[index] = (
                            "own" if other == optimizer or carried.get(index) == "own" else "other"
                        )
            left = self._passes[newest].reached[index]
            if left:
                ratios.append(size / left)
            applied.update(held)
            for number in held:
                self._passes[number].used.add(index)
            self._held[index] = [newest]  # what was applied before it says no more
        for number in applied:
            self._passes[number].applied[optimizer] = self._begun
        return not ratios or max(ratios) - min(ratios) <= _SAME * max(ratios)

    def _forget(self) -> None:
        needed = {number for held in self._held.values() for number in held}
        self._passes = {number: each for number, each in self._passes.items() if number in needed}


def is_plain(events: Sequence[PassEvent], gone: Collection[int]) -> bool:
    """Whether one pass met no gradients, an optimiser applied all it brought, and it was cleared: most steps.

    As far as that shows before the readout: what was applied must not be 0 either.
    """
    if [event.kind for event in events] != ["begin", "end", "step"] or events[0].indices:
        return False
    came = events[1].indices
    return came == events[2].indices and set(came) <= set(gone)


def _weights_unchanged(events: Sequence[PassEvent]) -> bool:
    """Whether nothing but an optimiser wrote to the weights between the passes (SAM does, between its two)."""
    versions: set[int] = set()
    shown: dict[int, tuple[float, ...]] = {}
    for event in events:
        if event.kind == "step":
            versions, shown = set(), {}
        elif event.kind == "end" and event.indices:
            versions.add(event.version)
            if len(versions) > 1 or shown.setdefault(event.indices[0], event.shown) != event.shown:
                return False
    return True


def _repeated(passes: Sequence[_Pass]) -> bool:
    """Whether a pass brought exactly the gradient of the one before it once more."""
    for first, second in pairwise(passes):
        same = first.reached.keys() == second.reached.keys() and any(first.reached.values())
        added = all(second.before.get(index) == first.reached[index] for index in first.reached)
        fresh = all(size == 0.0 for size in first.before.values())
        if same and added and fresh:
            pairs = [(first.reached[index], second.reached[index]) for index in first.reached]
            if all(abs(after - 2 * before) <= _TWICE * after for before, after in pairs):
                return True
    return False

"""Measures how far each parameter moves in a step.

Those that may move are copied at the entry of the step. Those that require no gradient and never moved are held by a
digest of their bits: it is compared after each step in which torch counted a write to them, and in any case after the
steps 1, 2, 4, and so on up to 64, and then after every 64th. One that did move is copied from then on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.recording.tensors import Scalars, count_nonzero, measure_norms, read_scalars
from diagnostics.recording.updates.digests import digest

_CHECKED_EVERY = 64
"""Steps after which digests are compared although torch counted no write: `.data` goes past its counter."""


@dataclass(frozen=True, eq=False)
class Moves:
    """What one step left, by position.

    Attributes:
        weights, updates: Norms of the weights at the entry, and of their change.
        changed: Numbers that are not 0 where a parameter changed.
        still: Positions of those that were not copied, whose change is not known beyond that.
        broken: Parameters with values that are not finite; None where the weights themselves have to be looked at.
    """

    weights: Scalars
    updates: Scalars
    changed: Scalars
    still: frozenset[int]
    broken: frozenset[int] | None


class Movement:
    """The movement of some parameters, over the steps of a monitor.

    Args:
        copied: Positions of parameters that are always copied.
    """

    def __init__(self, parameters: Sequence[Tensor], copied: Collection[int] = ()) -> None:
        self._parameters = parameters
        self._always = frozenset(copied)
        self._held: dict[int, _Digest] = {}
        self._copied: list[int] = []
        self._entry: list[Tensor] = []
        self._entry_norms: Scalars = []
        self._versions: list[int] = []  # of the weights when they were copied at the end of a step
        self._steps = 0
        self.moved: set[int] = set()
        """Positions of those without a copy that turned out to have moved; who reads the records adds to it."""

    @property
    def fall(self) -> Mapping[int, Tensor]:
        """What each copied parameter was at the entry of the step, minus what it is now; valid after `finish`."""
        return dict(zip(self._copied, self._entry, strict=True)) if self._entry else {}

    def begin(self, same: bool) -> None:
        """Start a step; `same` if the weights are known to be what they were when they were copied."""
        if not self._steps and not self._entry:
            self._hold()
        loose = [
            index
            for index, held in self._held.items()
            if index in self.moved or self._parameters[index].requires_grad or not held.is_untouched()
        ]
        if loose:
            for index in loose:
                del self._held[index]
            self._copied = sorted([*self._copied, *loose])
            self._entry, same = [], False
        own = [self._parameters[index] for index in self._copied]
        if not same:
            self._entry = self._entry if _alike(self._entry, own) else []
        if own and (not same or self._versions != [parameter._version for parameter in own]):
            self._copy(own)

    def _hold(self) -> None:
        self._held = {
            index: _Digest(parameter)
            for index, parameter in enumerate(self._parameters)
            if index not in self._always and not parameter.requires_grad and _is_plain(parameter)
        }
        self._copied = [index for index in range(len(self._parameters)) if index not in self._held]

    def keep_for_next(self) -> None:
        """Copy the weights now, while they are in the caches, for a step that begins with the same ones.

        What is written to `.data` between steps shows in the first numbers of each parameter, which are compared.
        """
        own = [self._parameters[index] for index in self._copied]
        if own and all(parameter.is_cpu for parameter in own):
            self._copy(own)
            self._versions = [parameter._version for parameter in own]

    def forget(self) -> None:
        """The weights may be others when the next step begins."""
        self._versions = []

    def release(self) -> None:
        """Remove the copies."""
        self._entry, self._versions = [], []

    def _copy(self, own: Sequence[Tensor]) -> None:
        if not self._entry:
            self._entry = [torch.empty_like(parameter) for parameter in own]
        torch._foreach_copy_(self._entry, list(own))
        self._entry_norms = measure_norms(self._entry)

    def finish(self) -> Moves:
        """End of the step."""
        self._versions = []
        self._steps += 1
        own = [self._parameters[index] for index in self._copied]
        if own:
            torch._foreach_sub_(self._entry, own)
        updates = measure_norms(self._entry)
        changed, broken = self._look_at_changes(updates)
        if not self._held:
            return Moves(self._entry_norms, updates, changed, frozenset(), broken)
        return Moves(
            self._spread(self._entry_norms, {index: held.norm for index, held in self._held.items()}),
            self._spread(updates, {index: held.zero for index, held in self._held.items()}),
            self._spread(changed, self._compare_digests()),
            frozenset(self._held),
            None if broken is None else frozenset(self._copied[place] for place in broken),
        )

    def _compare_digests(self) -> dict[int, Tensor | float]:
        """Numbers that are not 0 where the bits differ."""
        early = self._steps <= _CHECKED_EVERY and self._steps & (self._steps - 1) == 0
        due = early or self._steps % _CHECKED_EVERY == 0
        found: dict[int, Tensor | float] = {}
        for index, held in self._held.items():
            found[index] = differs = held.compare() if due or not held.is_untouched() else held.zero
            if not isinstance(differs, Tensor) and differs:
                self.moved.add(index)
        return found

    def _spread(self, known: Scalars, held: Mapping[int, Tensor | float]) -> Scalars:
        """By position: what is known of those that are copied, and of the others."""
        found = {**dict(zip(self._copied, known, strict=True)), **held}
        return [found[index] for index in range(len(self._parameters))]

    def _look_at_changes(self, updates: Scalars) -> tuple[Scalars, frozenset[int] | None]:
        """Numbers that are not 0 where a copy changed, and the places of those that are not finite.

        The norm of a change may underflow to 0, and overflow alone. On the CPU that is looked at where it may have
        happened. On an accelerator the host must not wait: the largest difference, which does not underflow, is taken
        of all, and None stands for what is not finite.
        """
        sizes = [update for update in updates if not isinstance(update, Tensor)]
        if len(sizes) < len(updates):
            return list(torch._foreach_norm(self._entry, math.inf)), None
        unseen = [place for place, size in enumerate(sizes) if size == 0.0]
        counts = count_nonzero([self._entry[place] for place in unseen])
        changed = [*updates]
        for place, count in zip(unseen, counts, strict=True):
            changed[place] = count
        bad = [place for place, size in enumerate(sizes) if not math.isfinite(size)]
        return changed, frozenset(
            place for place in bad if not torch.isfinite(self._parameters[self._copied[place]]).all()
        )


class _Digest:
    """A parameter that has not moved since this was made."""

    def __init__(self, parameter: Tensor) -> None:
        self._parameter = parameter
        self._digest = digest(parameter)
        self.norm = measure_norms([parameter])[0]
        self.zero: Tensor | float = 0.0 if parameter.is_cpu else torch.zeros((), device=parameter.device)
        """On its device: a step must not bring numbers there."""
        self._identity = self._read_identity()

    def _read_identity(self) -> tuple[int, int]:
        return self._parameter._version, self._parameter.data_ptr()

    def is_untouched(self) -> bool:
        """Whether torch counted no write to it, and it has the same memory."""
        return self._identity == self._read_identity()

    def compare(self) -> Tensor | float:
        """Not 0 where a bit differs."""
        self._identity = self._read_identity()
        return read_scalars([(digest(self._parameter) != self._digest).float()])[0]


def _is_plain(parameter: Tensor) -> bool:
    return type(parameter) in (Tensor, torch.nn.Parameter) and parameter.is_contiguous()


def _alike(copies: Sequence[Tensor], parameters: Sequence[Tensor]) -> bool:
    return len(copies) == len(parameters) and all(
        copy.shape == parameter.shape and copy.dtype == parameter.dtype and copy.device == parameter.device
        for copy, parameter in zip(copies, parameters, strict=True)
    )

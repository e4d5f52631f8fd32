"""What a step draws: samples of distributions that could have a gradient, and the state of its first random numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from diagnostics.recording.tensors import tensors_in

_DENSITIES = ("log_prob", "prob", "cdf", "log_cdf", "icdf")
_FRAMES = 16
"""Frames between a function of torch and the method of a distribution that calls it, at most."""


@dataclass
class Draw:
    """One call of sample() of a distribution that has rsample() and whose parameters require gradient.

    Attributes:
        place: Text that says where.
        parameters: The parameters that require gradient.
        scored: Whether a density was asked for its result, as a score function does.
        used: Whether its result met the graph of the loss.
    """

    place: str
    parameters: list[Tensor]
    scored: bool = False
    used: bool = False


class RandomDraws:
    """The draws of one step, followed until they meet the graph."""

    def __init__(self) -> None:
        self._draws: dict[int, Draw] = {}  # by the distribution
        self._from: dict[int, tuple[Tensor, Draw]] = {}  # tensors are kept, so that no id comes twice
        self._kept: list[Distribution] = []

    def unused_gradients(self) -> list[Draw]:
        """The draws that the loss uses other than by their density."""
        return [draw for draw in self._draws.values() if draw.used and not draw.scored]

    def note(self, given: Iterable[Tensor], result: Any, place: Callable[[], str]) -> None:
        """A function was called with some tensors."""
        drawer = _drawer()
        if drawer is not None:
            self._note_draw(drawer, result, place)
            return
        draws = {id(draw): draw for each in given if (draw := self._draw_of(each)) is not None}
        if not draws:
            return
        scored = _called_by(_DENSITIES) is not None
        for draw in draws.values():
            draw.scored |= scored
            for each in tensors_in(result):
                if each.requires_grad:
                    draw.used = True
                else:
                    self._from[id(each)] = (each, draw)

    def _note_draw(self, drawer: Distribution, result: Any, place: Callable[[], str]) -> None:
        learnt = [each for each in _parameters(drawer) if each.requires_grad]
        if learnt:
            self._kept.append(drawer)
            draw = self._draws.setdefault(id(drawer), Draw(place(), learnt))
            for each in tensors_in(result):
                self._from[id(each)] = (each, draw)

    def _draw_of(self, tensor: Tensor) -> Draw | None:
        found = self._from.get(id(tensor))
        return found[1] if found is not None and found[0] is tensor else None


def in_density() -> bool:
    """Whether a distribution computes a density at the moment."""
    return _called_by(_DENSITIES) is not None


def _drawer() -> Distribution | None:
    """The outermost distribution whose sample() calls, if it has rsample()."""
    frame = _called_by(("sample",))
    outermost = None
    while frame is not None:
        outermost = frame
        frame = _called_by(("sample",), frame.f_back, 2)
    if outermost is None or _called_by(("rsample",)) is not None:
        return None
    drawer = outermost.f_locals.get("self")
    return drawer if isinstance(drawer, Distribution) and drawer.has_rsample else None


def _called_by(
    names: tuple[str, ...], frame: FrameType | None = None, most: int = _FRAMES
) -> FrameType | None:
    """The innermost frame of a distribution's method of one of these names."""
    frame = frame or sys._getframe(1)
    for _ in range(most):
        if frame is None:
            return None
        if frame.f_code.co_name in names and isinstance(frame.f_locals.get("self"), Distribution):
            return frame
        frame = frame.f_back
    return None


def _parameters(drawer: Distribution) -> Iterator[Tensor]:
    for value in vars(drawer).values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Distribution):
            yield from _parameters(value)


class FirstDraw:
    """The state of torch's random numbers on the CPU when a step draws for the first time.

    Attributes:
        seed: The seed that was set within the step, right before that draw; None where there was none.
    """

    NAMES = frozenset(
        [
            "dropout",
            "dropout1d",
            "dropout2d",
            "dropout3d",
            "alpha_dropout",
            "feature_alpha_dropout",
            "randn",
            "randn_like",
            "rand",
            "rand_like",
            "randint",
            "randint_like",
            "randperm",
            "normal",
            "normal_",
            "uniform_",
            "bernoulli",
            "bernoulli_",
            "multinomial",
        ]
    )

    def __init__(self) -> None:
        self.seed: int | None = None
        self._start = torch.get_rng_state()
        self._over = False

    def before(self, name: str) -> Tensor | None:
        """The state before a function that may draw, None where it does not matter."""
        return torch.get_rng_state() if not self._over and name in self.NAMES else None

    def after(self, before: Tensor | None) -> None:
        """The function returned."""
        if before is None or torch.equal(before, torch.get_rng_state()):
            return
        self._over = True
        seed = torch.initial_seed()
        fresh = torch.Generator().manual_seed(seed).get_state()
        if torch.equal(before, fresh) and not torch.equal(before, self._start):
            self.seed = seed

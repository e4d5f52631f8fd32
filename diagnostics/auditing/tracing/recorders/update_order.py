"""What happens to losses, gradients and weights in one step, in turn."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

_NORMS = ("tensor", "linalg_vector_norm")
"""Functions whose result clip_grad_norm_() takes as the norm; the first where there is no gradient."""
_SCALES = {"mul": "scale", "_amp_foreach_non_finite_check_and_unscale_": "unscale"}
"""Functions that a GradScaler calls -> what it does with them."""
_FRAMES = 4  # the function of torch, and the wrappers between it and the one that is recorded


class UpdateOrder:
    """The order of the parts of an update.

    Attributes:
        events: In turn: "backward", "clip" of a gradient, "clip-zero" where it was 0, "clip-nothing" where there was
            none, "scale" of a loss by a GradScaler, "unscale" of gradients, and "step" of an optimiser.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self._directions: set[bool] = set()  # of the optimisers that stepped: whether they maximise

    @property
    def ascends(self) -> bool:
        """Whether an optimiser stepped, and each that did maximises."""
        return self._directions == {True}

    def begin_backward(self) -> None:
        """A backward pass begins."""
        self.events.append("backward")

    def stepped(self, optimizer: Optimizer) -> None:
        """An optimiser steps."""
        self.events.append("step")
        self._directions.add(maximizes([optimizer]))

    def note(self, name: str, result: Any) -> None:
        """A function was called by the caller of the one that calls this.

        Args:
            name: Its name.
            result: What it returned.
        """
        if name in _SCALES and _is_called_by("grad_scaler.py", sys._getframe(2)):
            self.events.append(_SCALES[name])
        if name in _NORMS and _is_called_by("clip_grad.py", sys._getframe(2)) and result.dim() == 0:
            self.events.append(_name_clip(name, result))


def maximizes(optimizers: Iterable[Optimizer]) -> bool:
    """Whether optimisers move all weights so that the loss rises."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return bool(groups) and all(group.get("maximize", False) for group in groups)


def _name_clip(name: str, norm: Tensor) -> str:
    """What clip_grad_norm_() found: a gradient, only zeros, or nothing."""
    if name == "tensor":
        return "clip-nothing"
    return "clip" if float(norm) else "clip-zero"


def _is_called_by(file: str, frame: FrameType | None) -> bool:
    """Whether a function of a file of torch calls, directly or in a few frames."""
    for _ in range(_FRAMES):
        if frame is None:
            return False
        if frame.f_code.co_filename.endswith(file):
            return True
        frame = frame.f_back
    return False

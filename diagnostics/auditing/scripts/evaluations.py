"""Evaluations between the steps of a running program: whether the model is still in training mode.

What is computed there is not known before it is computed. So functions of torch are looked at from the first call of a
model in training mode with gradients disabled to the next step: a loss, or predictions that are compared with labels.
Samples for a look, rollouts and renewed statistics have neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics.auditing.probes.model_checks import IN_TRAINING_MODE, MODE004
from diagnostics.auditing.tracing.lowest_mode import LowestMode
from diagnostics.auditing.tracing.recorders.loss_calls import COMPARED
from diagnostics.auditing.tracing.torch_call import name_of
from diagnostics.findings import Finding
from diagnostics.rules.parameter_checks import first_few
from diagnostics.selection import moded

_LOSSES = {*COMPARED, F.ctc_loss}
_CHOICES = ("argmax", "max", "topk", "round", "gt", "ge", "lt", "le")
"""Functions that make a decision of scores; of two results the last one is it."""
_COMPARISONS = ("eq", "ne")
_MOST_FUNCTIONS = 5_000  # of one evaluation, which cost as many microseconds
_MOST_SEEN = 4  # evaluations that are looked at
_RARELY = 2  # updates between two evaluations
_FEWEST_STEPS = 5  # updates, from which a single evaluation is no part of each


class Evaluations:
    """What is computed between the steps.

    Attributes:
        layers: Model -> its layers that were in training mode while something was judged with it.
    """

    def __init__(self) -> None:
        self.layers: dict[str, list[str]] = {}
        self._steps: list[int] = []  # after how many steps something was judged
        self._open: tuple[_Judging, str, list[str], int] | None = None
        self._evaluated: set[str] = set()  # models that were called in evaluation mode

    def note_call(self, module: nn.Module, name: str, steps: int) -> None:
        """A model is called between two steps, with gradients disabled.

        Args:
            steps: Steps before.
        """
        if not module.training:
            self._evaluated.add(name)
        elif self._open is None and len(self._steps) < _MOST_SEEN and (acting := _acting(module)):
            self._open = (_Judging().__enter__(), name, acting, steps)

    def end(self) -> None:
        """The next step begins, or the program has ended."""
        if self._open is None:
            return
        (judging, name, layers, steps), self._open = self._open, None
        judging.__exit__(None, None, None)
        if judging.judged:
            self._steps.append(steps)
            self.layers.setdefault(name, layers)

    def findings(self, steps: int) -> list[Finding]:
        """MODE004, unless it happens in each step, as where samples are chosen by their loss.

        Args:
            steps: Number of updates.
        """
        often = any(later - earlier < _RARELY for earlier, later in pairwise(self._steps))
        if often or steps < _FEWEST_STEPS:
            return []
        causes = {
            name: IN_TRAINING_MODE.of(model=name or "the model", layers=first_few(layers))
            for name, layers in self.layers.items()
            if name not in self._evaluated
        }
        return [MODE004.found_once(name, cause) for name, cause in causes.items()]


def _acting(module: nn.Module) -> list[str]:
    """The layers in training mode that act otherwise in evaluation."""
    layers = {name: layer for name, layer in moded(module).items() if layer.training}
    return [name or type(layer).__name__ for name, layer in layers.items()]


class _Judging(LowestMode):
    """Looks for a loss, or for decisions that are compared, among functions that are called with gradients disabled.

    Attributes:
        judged: Whether there was one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.judged = False
        self._decisions: dict[int, Tensor] = {}  # kept, so that no id comes twice
        self._count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function and look at it."""
        result = func(*args, **(kwargs or {}))
        self._count += 1
        if self.judged or self._count > _MOST_FUNCTIONS or torch.is_grad_enabled():
            return result
        name = name_of(func).strip("_")
        if func in _LOSSES:
            self.judged = True
        elif name in _CHOICES:
            chosen = result[-1] if isinstance(result, tuple) else result
            self._decisions[id(chosen)] = chosen
        elif name in _COMPARISONS:
            self.judged = any(self._decisions.get(id(each)) is each for each in args[:2])
        return result

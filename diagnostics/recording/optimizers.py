"""Finds the torch optimiser in what a training loop calls one: accelerate and others wrap it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer

from diagnostics.errors import InvalidType

_DEEPEST = 8  # wrappers inside each other


def list_optimizers(given: Any) -> list[Optimizer]:
    """The torch optimisers in one optimiser, a sequence of them, or None; wrappers are taken off.

    Raises:
        InvalidType: Something is no torch optimiser, and holds none as `.optimizer`.
    """
    several = given if isinstance(given, Iterable) else () if given is None else (given,)
    return [_unwrap(each) for each in several]


def _unwrap(given: Any) -> Optimizer:
    found = given
    for _ in range(_DEEPEST):
        if isinstance(found, Optimizer) and "_optimizer_step_pre_hooks" in vars(found):
            return found
        found = getattr(found, "optimizer", None)
    raise InvalidType(
        "monitor.not-an-optimizer",
        "optimizer must be a torch.optim.Optimizer or a sequence of them, found {got}; give None for another kind",
        got=type(given).__name__,
    )

"""Finds the torch optimiser in what a training loop calls one, and the GradScaler that calls its step."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TypeGuard

import torch
from torch.optim import Optimizer

from diagnostics.errors import InvalidType

_DEEPEST = 8  # wrappers inside each other: accelerate and others wrap an optimiser
_DEEPEST_CALL = (
    12  # frames between an optimiser's hook and the scaler: five in torch 2.13, more with wrappers
)


def list_optimizers(given: Any) -> list[Optimizer]:
    """The torch optimisers in one optimiser, a sequence of them, or None; wrappers are taken off.

    Raises:
        InvalidType: Something is no torch optimiser, and holds none as `.optimizer`.
    """
    several = given if isinstance(given, Iterable) else () if given is None else (given,)
    return [_unwrap(each) for each in several]


def list_inner(optimizer: Optimizer) -> list[Optimizer]:
    """The optimisers that one holds, as SAM and Lookahead do, which step for it: inside of its own step, or alone."""
    found = [optimizer]
    for each in found:
        held = (value for value in vars(each).values() if isinstance(value, Optimizer))
        found += [value for value in held if not any(value is known for known in found)]
    return [each for each in found[1:] if _takes_hooks(each)]


def _takes_hooks(optimizer: Any) -> TypeGuard[Optimizer]:
    """Whether the base class of an optimiser was initialised, so that its steps call hooks."""
    return isinstance(optimizer, Optimizer) and "_optimizer_step_pre_hooks" in vars(optimizer)


def _unwrap(given: Any) -> Optimizer:
    found = given
    for _ in range(_DEEPEST):
        if _takes_hooks(found):
            return found
        found = getattr(found, "optimizer", None)
    if isinstance(given, Optimizer):
        inner = list_inner(given)
        if inner:
            return inner[0]
    raise InvalidType(
        "monitor.not-an-optimizer",
        "optimizer must be a torch.optim.Optimizer or a sequence of them, found {got}; give None for another kind",
        got=type(given).__name__,
    )


def calling_scaler() -> torch.amp.GradScaler | None:
    """The enabled GradScaler among the callers, None where there is none: gradients carry its scale until then."""
    frame = sys._getframe(1)
    for _ in range(_DEEPEST_CALL):
        if frame.f_back is None:
            return None
        frame = frame.f_back
        scaler = frame.f_locals.get("self") if frame.f_code.co_filename.endswith("grad_scaler.py") else None
        if isinstance(scaler, torch.amp.GradScaler):
            return scaler if scaler.is_enabled() else None  # a disabled one has no scale
    return None

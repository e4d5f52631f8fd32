"""What a changed copy of the packages calls at the changed place.

A copy of this file lies next to the packages of a changed copy as the module ``changed_code``. It imports nothing of
them, and a changed copy has one change, so the state of the change is that of the module.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

PROFILE = "ETRM_PROFILE_OF_PLACES"
"""The environment variable with the file of the profile."""
Part = str | int | None
"""A field of a dataclass, an index of a tuple, or None for the whole value."""


@dataclass
class _ChangeState:
    """Where this process is: the step and the bucket of its training, and what the changed place has seen."""

    step: int | None = None
    bucket: int | None = None
    calls: int = 0
    previous: Any = None


_state = _ChangeState()


def begin() -> None:
    """Note that a training begins, so that steps and calls are counted from its start."""
    global _state
    _state = _ChangeState()


def enter(step: int, bucket: int) -> None:
    """Note the 0-based step that begins, and its bucket."""
    _state.step, _state.bucket = step, bucket


def applies(when: str) -> bool:
    """Count a call, and return whether the change acts in it.

    Args:
        when: empty for every call, or a quantity, an operator and a number: ``step>=12``, ``step<5``, ``step%3``,
            ``bucket=1``, ``call>=100`` or ``call%3``; calls are counted from 1.
    """
    _state.calls += 1
    if not when:
        return True
    quantity = when[: next(i for i, sign in enumerate(when) if not sign.isalpha())]
    operator = when[len(quantity) :].rstrip("0123456789")
    number = int(when[len(quantity) + len(operator) :])
    value = {"step": _state.step, "bucket": _state.bucket, "call": _state.calls}[quantity]
    if value is None:  # outside training
        return False
    return {
        ">=": value >= number,
        "<": value < number,
        "=": value == number,
        "%": value % max(1, number) == 0,
    }[operator]


def change(
    value: Any, how: str, *options: Any, when: str = "", at: Part = None, row: int | None = None
) -> Any:
    """Return a value changed.

    Args:
        value: the value that the unchanged code computes.
        how: a name of :data:`CHANGES`.
        options: the further arguments of that change.
        when: the calls that are changed, see :func:`applies`.
        at: the part of the value to change.
        row: the only row of it to change, of a tensor or an array.
    """
    active = applies(when)
    part = _get(value, at)
    if part is None:  # the place had a value where it was profiled
        return value
    if how == "delay":
        changed, _state.previous = _delayed(part, _state.previous), _kept(part)
        active = active and changed is not part
    elif active:
        changed = CHANGES[how](part, *options)
    if not active:
        return value
    return _put(value, at, changed if row is None else _in_row(part, changed, row))


def seen(key: int, value: Any) -> Any:
    """Return the value, and note its type for the profile of all places; see :func:`write_profile`."""
    entry = _profile.setdefault(key, {"calls": 0, "in_steps": 0, "types": []})
    entry["calls"] += 1
    entry["in_steps"] += _state.step is not None
    if entry["calls"] <= _LOOKED_AT:
        described = describe(value)
        if described not in entry["types"]:
            entry["types"].append(described)
    return value


_LOOKED_AT = 40  # values of a place whose type is read; later ones are of the same types
_profile: dict[int, dict[str, Any]] = {}


def describe(value: Any, deep: bool = True) -> dict[str, Any]:
    """Describe a value: its kind, shape and whether it requires a gradient; of a tuple or dataclass also its parts."""
    found: dict[str, Any] = {"kind": kind_of(value)}
    if isinstance(value, Tensor | np.ndarray):
        found |= {
            "shape": list(value.shape),
            "grad": bool(isinstance(value, Tensor) and value.requires_grad),
        }
    elif isinstance(value, list | tuple):
        found["length"] = len(value)
    if isinstance(value, bool | int | float | str | None):
        found["value"] = value
    if deep and (isinstance(value, tuple) or is_dataclass(value)) and not isinstance(value, type):
        found["parts"] = {str(name): describe(_get(value, name), False) for name in _parts(value)}
    return found


def kind_of(value: Any) -> str:
    """Return the kind of a value, on which the changes that can act on it depend."""
    if isinstance(value, Tensor | np.ndarray):
        array = value.numpy(force=True) if isinstance(value, Tensor) and not value.is_sparse else value
        letter = getattr(getattr(array, "dtype", None), "kind", "?")
        kinds = {"f": "floats", "b": "bools", "i": "integers", "u": "integers"}
        return kinds.get(letter, "other")
    for kind, types in (("bool", bool), ("int", int), ("float", float), ("list", list | tuple)):
        if isinstance(value, types):
            return kind
    return "object" if is_dataclass(value) else "other"


def write_profile() -> None:
    """Write the profile at exit, if the environment names a file for it."""
    path = os.environ.get(PROFILE)
    if path:
        Path(path).write_text(json.dumps(_profile), "utf-8")


atexit.register(write_profile)


def _parts(value: Any) -> list[str | int]:
    if is_dataclass(value):
        return [field.name for field in fields(value)]
    return list(range(len(value)))


def _get(value: Any, at: Part) -> Any:
    if at is None:
        return value
    return value[at] if isinstance(at, int) else getattr(value, at)


def _put(value: Any, at: Part, changed: Any) -> Any:
    if at is None:
        return changed
    if isinstance(at, int):
        items = list(value)
        items[at] = changed
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return replace(value, **{at: changed})


def _kept(value: Any) -> Any:
    """A copy that later in-place operations do not reach."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, np.ndarray) else value


def _delayed(value: Any, previous: Any) -> Any:
    if isinstance(value, Tensor | np.ndarray):
        same = type(previous) is type(value) and previous.shape == value.shape
        return previous if same else value
    return value if previous is None else previous


def _in_row(before: Any, after: Any, row: int) -> Any:
    if before.ndim == 0 or len(before) <= row or before.shape != after.shape:
        return before
    chosen = np.arange(len(before)) == row
    shape = (-1,) + (1,) * (before.ndim - 1)
    if isinstance(before, Tensor):
        return torch.where(torch.from_numpy(chosen).reshape(shape), after, before)
    return np.where(chosen.reshape(shape), after, before)


def _scale(value: Any, factor: float) -> Any:
    return value * factor


def _add(value: Any, number: int) -> Any:
    return value + number


def _roll(value: Any, dim: int) -> Any:
    if isinstance(value, Tensor):
        return torch.roll(value, 1, dim)
    if isinstance(value, np.ndarray):
        return np.roll(value, 1, dim)
    return type(value)((*value[-1:], *value[:-1]))


def _round(value: Any, decimals: int) -> Any:
    return value.round(decimals=decimals) if isinstance(value, Tensor) else np.round(value, decimals)


def _fill(value: Any, number: float) -> Any:
    return torch.full_like(value, number) if isinstance(value, Tensor) else np.full_like(value, number)


def _swap(value: Any) -> Any:
    order = [1, 0, *range(2, len(value))]
    return value[order] if len(value) > 1 else value


def _detach(value: Any) -> Any:
    return value.detach()


def _negate(value: Any) -> Any:
    return ~value if isinstance(value, Tensor | np.ndarray) else not value


def _first(value: Any) -> Any:
    return value[:1]


def _last(value: Any) -> Any:
    return value[-1:]


def _backwards(value: Any) -> Any:
    return value[::-1]


def _constant(value: Any, other: Any) -> Any:
    return other


CHANGES: dict[str, Callable[..., Any]] = {
    "scale": _scale,
    "add": _add,
    "roll": _roll,
    "round": _round,
    "fill": _fill,
    "swap": _swap,
    "detach": _detach,
    "negate": _negate,
    "first": _first,
    "last": _last,
    "backwards": _backwards,
    "constant": _constant,
}
"""The changes by name; ``delay``, the value of the call before, is the one that needs a memory."""

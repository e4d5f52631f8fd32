"""Why the rows of an output cannot be matched to samples: the causes of COV003."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diagnostics.causes import Cause

OTHER_WAY = Cause(
    "other-way",
    "its parameters receive gradient on another path than its forward ({state}): other methods, shared"
    " weights, or torch.compile before the monitor was made",
)
OTHER_LEADING_SIZE = Cause(
    "other-leading-size",
    "an output of shape {shape} does not have the {rows} as its first dimension; declare its rows",
)
SEQUENCE_FIRST = Cause(
    "sequence-first", "it is sequence-first (batch_first=False); declare rows of shape (T, B)"
)
HIDDEN_STATE = Cause("hidden-state", "a hidden state has the layers as its first dimension")
SCALAR_OUTPUT = Cause("scalar-output", "an output is a scalar, which belongs to no sample")
RETURNS_INPUT = Cause(
    "returns-input", "it returns its own input, whose gradient may come from other modules too"
)
CHANGED_VIEW = Cause("changed-view", "an output is a view, and it or its base was changed in place later")
OPAQUE_OUTPUT = Cause("opaque-output", "the tensors in an output of type {type} cannot be found")
NO_FLOATING_OUTPUT = Cause("no-floating-output", "no output is a floating-point tensor")
ROWS_OUT_OF_RANGE = Cause("rows-out-of-range", "declared rows name samples outside 0..{last}")
RECOMPUTED_ROWS = Cause(
    "recomputed-rows",
    "checkpointing repeated one of several calls with different rows; declare rows={{...}}",
)
NESTED = Cause("nested", "an output is a nested tensor, whose rows have no common shape")
FUNCTION_TRANSFORM = Cause(
    "function-transform",
    "it runs inside torch.func (vmap, grad), where a gradient cannot be followed to samples",
)
NO_DATA = Cause("no-data", "an output is on the meta device, which holds no numbers")
SCRIPTED = Cause("scripted", "it is a ScriptModule, which takes no hooks")
NOT_MEASURED = Cause("not-measured", "measuring it failed: {reason}")

ALL = (
    NESTED,
    FUNCTION_TRANSFORM,
    NO_DATA,
    SCRIPTED,
    NOT_MEASURED,
    OTHER_WAY,
    OTHER_LEADING_SIZE,
    SEQUENCE_FIRST,
    HIDDEN_STATE,
    SCALAR_OUTPUT,
    RETURNS_INPUT,
    CHANGED_VIEW,
    OPAQUE_OUTPUT,
    NO_FLOATING_OUTPUT,
    ROWS_OUT_OF_RANGE,
    RECOMPUTED_ROWS,
)

_PLAIN = (type(None), bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device)


def find_opaque(value: Any) -> Cause | None:
    """Why tensors may hide in a value, None where none can."""
    if isinstance(value, (Tensor, _PLAIN)):
        return None
    if isinstance(value, Mapping):
        return next(filter(None, map(find_opaque, value.values())), None)
    if isinstance(value, (tuple, list)):
        return next(filter(None, map(find_opaque, value)), None)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = (getattr(value, item.name, None) for item in dataclasses.fields(value))
        return next(filter(None, map(find_opaque, members)), None)
    return OPAQUE_OUTPUT.of(type=type(value).__name__)

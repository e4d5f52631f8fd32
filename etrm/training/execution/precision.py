"""Lower precision (`train.precision`), and which devices support it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from etrm.config import Precision
from etrm.errors import ConfigError
from etrm.model.forward_context import products_in

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@contextmanager
def autocast(precision: Precision, device: torch.device) -> Iterator[None]:
    """A context around the forward pass that computes matrix products in a precision.

    Weights, residual states, norms, halting logits and the loss keep their own precision.
    """
    if precision == "float32":
        yield
        return
    dtype = _DTYPES[precision]
    # Without its cache: the core's first cycles run without gradient, and before torch 2.8 a weight that
    # was cast there had none in the last cycle either.
    with torch.autocast(device.type, dtype=dtype, cache_enabled=False), products_in(dtype):
        yield


def check_precision(precision: Precision, device: torch.device, name: str = "train.precision") -> None:
    """Refuse a precision that the device lacks, and warn if it is no faster; ``name`` is that of the setting.

    Raises:
        ConfigError: the device has no bfloat16.
    """
    if precision == "float32":
        return
    if device.type == "mps" or (device.type == "cuda" and not torch.cuda.is_bf16_supported(False)):
        raise ConfigError(
            "train.no-bfloat16",
            f"{name} bfloat16 is not available on this device ({device.type})",
            allowed="a GPU that computes in bfloat16 (Ampere or newer), or a CPU",
            next_step=f"{name}=float32",
        )
    if device.type == "cpu":
        warnings.warn(
            f"{name} bfloat16 is little faster on a CPU, and slower on one without bfloat16 instructions",
            stacklevel=2,
        )

"""Restores the random states of torch, Python and numpy after something has drawn from them."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def same_random_numbers(model: nn.Module) -> Iterator[None]:
    """What the block draws is drawn again after it; of GPUs those that hold a part of the model."""
    with torch.random.fork_rng(_cuda_devices(model), device_type="cuda"), _host_random_numbers():
        yield


class RandomState:
    """The random numbers of torch, on the CPU and on GPUs that are in use, as they are when this is made."""

    def __init__(self) -> None:
        self._host = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore(self) -> None:
        """Draw the same numbers again."""
        torch.set_rng_state(self._host)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)


@contextmanager
def _host_random_numbers() -> Iterator[None]:
    python = random.getstate()
    # not imported here: the toolkit needs torch alone, but a data pipeline may draw from numpy
    numpy: Any = sys.modules.get("numpy")
    drawn = numpy.random.get_state() if numpy else None
    try:
        yield
    finally:
        random.setstate(python)
        if numpy:
            numpy.random.set_state(drawn)


def _cuda_devices(model: nn.Module) -> list[torch.device]:
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    return sorted({tensor.device for tensor in tensors if tensor.is_cuda}, key=str)

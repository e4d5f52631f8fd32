"""Devices: which one a run uses, and the only two functions that move tensors between it and the host.

Samples are made on the host, the model computes on the device, and files are written from the host. No other module
calls ``.to(device)`` or ``.cpu()``; a test enforces this.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from etrm.errors import ConfigError

T = TypeVar("T")


def pick_device(name: str) -> torch.device:
    """Return the device that ``train.device`` names; ``auto`` is a GPU if there is one, else the CPU.

    Raises:
        ConfigError: this machine does not have it, or torch was built without it.
    """
    found = _list_devices()
    if name == "auto":
        return torch.device(found[0])
    if name not in found:
        raise ConfigError(
            "train.no-such-device",
            f"torch finds no device {name} on this machine",
            got=f"train.device {name!r}",
            allowed=", ".join(("auto", *found)),
            next_step="--set train.device=auto in a new run; resume a run on a machine that has the device",
        )
    return torch.device(name)


def pick_device_of_trained(name: str) -> torch.device:
    """Return the device for a trained model: that of the training, or if this machine lacks it, as ``auto``."""
    return pick_device(name if name in _list_devices() else "auto")


def _list_devices() -> list[str]:
    """Return the names of the devices of this machine, the best first."""
    exists = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [name for name, found in exists.items() if found]


def to_device(value: T, device: torch.device) -> T:
    """Return ``value`` on ``device``. Tensors that are already there are not copied.

    Args:
        value: a tensor, a module (moved in place), or a dataclass whose fields may be tensors or dataclasses.
        device: the target device. The host does not wait for the copy.
    """
    moved: Any = value
    if isinstance(value, nn.Module):
        moved = value.to(device)
    elif isinstance(value, Tensor):
        crosses = device.type == "cuda" and value.device.type == "cpu"
        # The host would copy other memory itself, and wait.
        moved = (value.pin_memory() if crosses else value).to(device, non_blocking=True)
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        crossing = {
            name: part for name, part in parts.items() if isinstance(part, Tensor) or is_dataclass(part)
        }
        moved = replace(value, **{name: to_device(part, device) for name, part in crossing.items()})
    return moved


def to_host(tensor: Tensor) -> Tensor:
    """Return a detached copy of a tensor on the host. The host waits for the device."""
    return tensor.detach().cpu()

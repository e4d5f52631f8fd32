"""What computes a run, as far as its numbers depend on it, and what changed when a run moved.

The same seed gives the same bits on the same device, precision, number of threads and version of torch. Between two
of any of these it gives the same numbers to rounding, which training amplifies (docs/scale.md).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from etrm.config import TrainConfig
from etrm.setting_texts import flat

COMPARED = ("device", "precision", "threads", "versions", "commit", "code")
"""Entries of a run's record that its numbers may depend on."""


@dataclass(frozen=True)
class Compute:
    """What computes a run.

    Attributes:
        device: its type and the name of its hardware, see :func:`describe`.
        precision: of matrix products.
        threads: CPU threads of torch.
        torch: its version.
    """

    device: str
    precision: str
    threads: int
    torch: str


@dataclass(frozen=True)
class Change:
    """An entry of a run's record that is not what it was in the process before.

    Attributes:
        step: optimiser steps done before the change.
        name: dotted name of the entry, e.g. ``versions.torch``.
        before: its old value.
        now: its new value.
    """

    step: int
    name: str
    before: str
    now: str


def compute(train: TrainConfig, device: torch.device) -> Compute:
    """What computes a run of this train section on this device in a process of this machine."""
    threads = torch.get_num_threads() if train.threads is None else train.threads
    return Compute(describe(device), train.precision, threads, torch.__version__)


def describe(device: torch.device) -> str:
    """Type and hardware of a device, e.g. ``cuda: NVIDIA H100`` or ``cpu: AMD EPYC 9B45``."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return f"{device.type}: {name}"


def processor() -> str:
    """Model of the processor, or its architecture where the system does not name one."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if "model name" in line:
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def changes(before: Mapping[str, Any], now: Mapping[str, Any], step: int) -> list[Change]:
    """What differs between two records of a run; an entry that one of them lacks is passed over."""
    old, new = (flat({name: record[name] for name in COMPARED if name in record}) for record in (before, now))
    return [
        Change(step, name, str(old[name]), str(value))
        for name, value in new.items()
        if name in old and old[name] != value
    ]

"""The hardware and software that a run's numbers depend on, and what changed between the processes of a run.

The same seed gives identical bits on the same device, precision, number of threads and version of torch. If one of
these differs, the numbers agree only to rounding, and training amplifies the rounding (docs/scale.md).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etrm.config import TrainConfig
from etrm.setting_texts import flatten

if TYPE_CHECKING:  # commands that only list runs do not wait for torch
    import torch

COMPARED = ("device", "precision", "threads", "processes", "versions", "commit", "code")
"""Entries of ``run.json`` that the numbers of a run may depend on."""


@dataclass(frozen=True)
class Compute:
    """The hardware and software of a run.

    Attributes:
        device: the type of the device and the name of its hardware, see :func:`describe`.
        precision: the precision of matrix products.
        threads: the number of CPU threads of torch.
        torch: the version of torch.
    """

    device: str
    precision: str
    threads: int
    torch: str


@dataclass(frozen=True)
class RecordChange:
    """An entry of ``run.json`` that changed between two processes of a run.

    Attributes:
        step: the number of optimiser steps done before the change.
        name: the dotted name of the entry, e.g. ``versions.torch``.
        before: the old value.
        now: the new value.
    """

    step: int
    name: str
    before: str
    now: str


def compute(train: TrainConfig, device: torch.device) -> Compute:
    """Return what a run with this ``train`` section uses on this machine and device."""
    import torch

    threads = torch.get_num_threads() if train.threads is None else train.threads
    return Compute(describe(device), train.precision, threads, torch.__version__)


def describe(device: torch.device) -> str:
    """Return the type and hardware of a device, e.g. ``cuda: NVIDIA H100`` or ``cpu: AMD EPYC 9B45``."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else read_processor_name()
    return f"{device.type}: {name}"


def read_processor_name() -> str:
    """Return the model of the processor, or its architecture if the system does not name the model."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if "model name" in line:
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def find_changes(before: Mapping[str, Any], now: Mapping[str, Any], step: int) -> list[RecordChange]:
    """Return what differs between two records of a run. Entries that only one of them has are skipped."""
    old, new = (
        flatten({name: record[name] for name in COMPARED if name in record}) for record in (before, now)
    )
    return [
        RecordChange(step, name, str(old[name]), str(value))
        for name, value in new.items()
        if name in old and old[name] != value
    ]

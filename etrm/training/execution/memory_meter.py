"""How much memory a process may still take, and the most that it took: of a GPU, or of the machine on a CPU.

The limit of a CPU is measured: what the system says is available, or less where a control group (a container, a job of
a scheduler) allows less. Linux alone is supported, which can also reset the peak of a process.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from etrm.errors import ConfigError

UNLIMITED = 1 << 60
"""Control groups without a limit show "max", or a number about as large as this."""


class MemoryMeter(Protocol):
    """Measures the memory of this process.

    Attributes:
        limit: the number of bytes that the process may take in all.
    """

    limit: int

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """A context that begins a new peak; on a CPU an allocation beyond the limit fails in it."""
        yield

    def read_peak(self) -> int:
        """Return the largest number of bytes since the context began."""


def open_meter(device: torch.device) -> MemoryMeter:
    """Return the meter of a device.

    Raises:
        ConfigError: the memory of this kind of device cannot be measured here.
    """
    if device.type == "cuda":
        return GpuMeter(device)
    if device.type == "cpu" and Path("/proc/self/clear_refs").exists():
        return HostMeter()
    raise ConfigError(
        "train.memory-not-measured",
        "the largest memory of a step cannot be measured on this device and system",
        got=device.type,
        allowed="cuda, or cpu under Linux",
        next_step="set train.batch_size by hand",
    )


class GpuMeter:
    """The memory of a GPU that torch reserves for this process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        free, _ = torch.cuda.mem_get_info(device)
        self.limit = free + torch.cuda.memory_reserved(device)

    @contextmanager
    def bounded(self) -> Iterator[None]:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        yield

    def read_peak(self) -> int:
        return torch.cuda.max_memory_reserved(self._device)


class HostMeter:
    """The resident memory of this process.

    Args:
        limit: the number of bytes that the process may take in all; None for what the machine has.
    """

    def __init__(self, limit: int | None = None) -> None:
        available = read_available() if limit is None else 0
        self.limit = _status("VmRSS") + available if limit is None else limit

    @contextmanager
    def bounded(self) -> Iterator[None]:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)
        before = resource.getrlimit(resource.RLIMIT_DATA)
        more = max(self.limit - _status("VmRSS"), 0)
        soft = _status("VmData") + more
        hard = before[1]
        resource.setrlimit(
            resource.RLIMIT_DATA, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
        )
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, before)

    def read_peak(self) -> int:
        return _status("VmHWM")


def read_available(root: Path = Path("/")) -> int:
    """Return the bytes that this process may take in addition: the least of the system and its control groups.

    Args:
        root: the folder that contains ``proc`` and ``sys``.
    """
    text = (root / "proc/meminfo").read_text()
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return min([1024 * int(found[1]), *_group_headrooms(root)])


def _group_headrooms(root: Path) -> Iterator[int]:
    """What each control group of this process still allows (versions 2 and 1 of control groups)."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in kinds.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # A container sees its own group as the root, whatever path the host gave it.
        folder = base / path.lstrip("/")
        for place in {base, folder, *(one for one in folder.parents if one.is_relative_to(base))}:
            if (headroom := _headroom(place, *names)) is not None:
                yield headroom


def _headroom(group: Path, most: str, used: str, reclaimable: str) -> int | None:
    if not (group / most).exists() or not (group / used).exists():
        return None
    limit = (group / most).read_text().strip()
    if limit == "max" or int(limit) >= UNLIMITED:
        return None
    stat = (group / "memory.stat").read_text() if (group / "memory.stat").exists() else ""
    cached = re.search(rf"^{reclaimable} (\d+)$", stat, re.MULTILINE)
    taken = int((group / used).read_text()) - (int(cached[1]) if cached else 0)
    return max(int(limit) - taken, 0)


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])

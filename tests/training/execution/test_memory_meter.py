"""What memory a process may take, against files as the kernel writes them, and against real allocations."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from etrm.errors import ConfigError
from etrm.training.execution.memory import is_shortage
from etrm.training.execution.memory_meter import HostMeter, open_meter, read_available
from tests.errors import raises_code

MIB = 2**20


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A machine with 8 GiB available and these control groups."""
    for name, text in {
        "proc/meminfo": "MemAvailable: 8388608 kB\n",
        "proc/self/cgroup": groups,
        **files,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


SECOND = {"memory.max": f"{900 * MIB}\n", "memory.current": f"{300 * MIB}\n"}
CASES = {
    "no group": ("", {}, 8192),
    "a limit, less what is used": (
        "0::/job\n",
        {f"sys/fs/cgroup/job/{k}": v for k, v in SECOND.items()},
        600,
    ),
    "the limit of the parent": (
        "0::/job/step\n",
        {
            "sys/fs/cgroup/job/step/memory.max": "max\n",
            "sys/fs/cgroup/job/step/memory.current": "5\n",
            **{f"sys/fs/cgroup/job/{k}": v for k, v in SECOND.items()},
        },
        600,
    ),
    "file pages can be dropped": (
        "0::/\n",
        {f"sys/fs/cgroup/{k}": v for k, v in SECOND.items()}
        | {"sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {100 * MIB}\n"},
        700,
    ),
    "a container sees its group as the root": (
        "0::/host/path\n",
        {f"sys/fs/cgroup/{k}": v for k, v in SECOND.items()},
        600,
    ),
    "version 1": (
        "4:cpu:/\n3:memory:/job\n",
        {
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{500 * MIB}\n",
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{100 * MIB}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "5\n",
        },
        400,
    ),
}


@pytest.mark.parametrize(("groups", "files", "mib"), CASES.values(), ids=CASES)
def test_the_least_of_machine_and_groups(
    tmp_path: Path, groups: str, files: dict[str, str], mib: int
) -> None:
    assert read_available(machine(tmp_path, groups, files)) == mib * MIB


def test_an_allocation_beyond_the_limit_fails_and_the_limit_ends() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with HostMeter().bounded():
        room = HostMeter().read_peak() + 64 * MIB
    tight = HostMeter(limit=room)  # 64 MiB for python and pytest themselves
    with tight.bounded(), pytest.raises(RuntimeError) as found:
        torch.ones(64 * MIB)  # 256 MiB
    assert is_shortage(found.value)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    torch.ones(64 * MIB)


def test_every_context_begins_a_new_peak() -> None:
    meter = HostMeter()
    with meter.bounded():
        base = meter.read_peak()
    with meter.bounded():
        held = torch.ones(64 * MIB)
        assert meter.read_peak() >= base + 200 * MIB
    del held
    with meter.bounded():
        assert meter.read_peak() < base + 100 * MIB


def test_a_device_that_cannot_be_measured_is_refused() -> None:
    with raises_code(ConfigError, "train.memory-not-measured", "mps"):
        open_meter(torch.device("mps"))

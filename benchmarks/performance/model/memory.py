"""Measure one point of the growth curves in a separate process, and print the bytes that two training steps take.

python -m benchmarks.performance.model.memory WIDTH SIDE DEMOS ROWS DEVICE
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import torch

from benchmarks.performance.model.growth import Point

STATUS = Path("/proc/self/status")


def read_resident(field: str) -> int:
    """Read a line of the process's status in bytes: VmRSS for the current value, VmHWM for the highest so far.

    Not ``getrusage``: its maximum is inherited from the process that started this one.
    """
    found = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def measure_added_by_training(point: Point, device: torch.device) -> int:
    """Measure the bytes that training adds to those before the first step."""
    step, batch = point.step(device), point.batch(device)
    before = torch.cuda.memory_allocated() if device.type == "cuda" else read_resident("VmRSS")
    for _ in range(2):
        step(batch)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else read_resident("VmHWM")
    return peak - before


if __name__ == "__main__":
    *numbers, name = sys.argv[1:]
    sys.stdout.write(json.dumps(measure_added_by_training(Point(*map(int, numbers)), torch.device(name))))

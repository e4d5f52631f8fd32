"""The two ceilings of a GPU: matrix products in bfloat16, and copies in its memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.performance.timing import synchronize


def measure_peaks(device: torch.device, side: int = 8192, turns: int = 10) -> dict[str, float]:
    """Measure TFLOP/s of square products of random numbers, and TB/s of a copy (bytes read and written).

    Returns:
        ``bfloat16``, ``tf32``, ``float32`` in TFLOP/s, and ``copy`` in TB/s; medians of the turns.
    """
    found = {}
    for name, dtype, tf32 in (
        ("bfloat16", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("float32", torch.float32, False),
    ):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        torch.backends.cuda.matmul.allow_tf32 = tf32
        found[name] = 2 * side**3 / _median(lambda a=a, b=b: torch.mm(a, b), turns, device) / 1e12  # type: ignore[misc]
    torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.randn(side, 4 * side, device=device)
    target = torch.empty_like(source)
    found["copy"] = 2 * source.nbytes / _median(lambda: target.copy_(source), turns, device) / 1e12
    return found


def _median(work: Callable[[], object], turns: int, device: torch.device) -> float:
    spent = []
    for _ in range(turns + 2):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        spent.append(time.perf_counter() - began)
    return float(np.median(spent[2:]))

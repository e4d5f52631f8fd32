"""What a training step costs: rows per second, share of the peak, kernels, memory, graphs."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.performance.model.throughput import ATTENTION
from benchmarks.performance.timing import synchronize
from etrm.config import Config
from etrm.training.trainer import Trainer

WARM_ROUNDS = 2
"""Rounds over all buckets before anything is timed: the first compiles and allocates, in the second rows continue."""
ROUNDS = 40
"""Timed rounds at most."""


def measure_steps(config: Config, seconds: float, count_operations: bool = True) -> dict[str, Any]:
    """Train without reading any step, and measure whole rounds over all buckets.

    Returns:
        ``rows_per_second`` and ``ms_per_step`` of whole steps; ``loader_ms`` of them in which the host draws and lays
        out samples; on a GPU ``busy_ms`` (time of kernels), ``kernels`` and ``gib``; ``tflop`` of a step; ``graphs``
        compiled before and ``graphs_during`` the timed steps, and ``captured`` CUDA graphs likewise; ``first_seconds``
        of the first step and ``warm_seconds`` of all steps before the timed ones.
    """
    trainer = Trainer(config)
    device, buckets, rows = trainer.device, trainer.episodes.buckets, config.train.batch_size
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    trainer.advance(read=False)
    synchronize(device)
    first = time.perf_counter() - began
    sys.stderr.write(f"first step: {first:.1f} s\n")  # what is known if the case is stopped
    take_rounds(trainer, WARM_ROUNDS)
    sys.stderr.write(f"warm: {time.perf_counter() - began:.1f} s, {count_graphs()} graphs\n")
    found: dict[str, Any] = {
        "rows": rows,
        "buckets": buckets,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "first_seconds": first,
        "warm_seconds": time.perf_counter() - began,
        "graphs": count_graphs(),
        "captured": count_captured(trainer),
    }
    loader = time_loader(trainer)
    spent: list[float] = []
    loader.clear()
    while sum(spent) < seconds and len(spent) < ROUNDS:
        began = time.perf_counter()
        take_rounds(trainer, 1)
        spent.append(time.perf_counter() - began)
        sys.stderr.write(f"{1e3 * spent[-1] / buckets:.2f} ms per step\n")
    step = sum(spent) / len(spent) / buckets
    found |= {
        "steps": len(spent) * buckets,
        "ms_per_step": 1e3 * step,
        "ms_per_step_by_round": [round(1e3 * each / buckets, 3) for each in spent],
        "rows_per_second": rows / step,
        "loader_ms": 1e3 * sum(loader) / len(spent) / buckets,
        "graphs_during": count_graphs() - found["graphs"],
        "captured_during": count_captured(trainer) - found["captured"],
    }
    if device.type == "cuda":
        found["gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        found |= profile_round(trainer)
    if count_operations:
        found["tflop"] = count_tflop(trainer)
    found["loss"] = trainer.advance()[-1]["loss"]
    return found


def take_rounds(trainer: Trainer, rounds: int) -> None:
    """Do unread steps, one of each bucket per round, and wait for the device."""
    for _ in range(rounds * trainer.episodes.buckets):
        trainer.advance(read=False)
    synchronize(trainer.device)


def count_tflop(trainer: Trainer) -> float:
    """Count 1e12 floating-point operations of products and attention per step, over one round."""
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        take_rounds(trainer, 1)
    return counter.get_total_flops() / trainer.episodes.buckets / 1e12


def time_loader(trainer: Trainer) -> list[float]:
    """Make the trainer's slots note the seconds of drawing and laying out samples.

    Returns:
        the list that grows with every call.
    """
    spent: list[float] = []
    for slots in trainer.slots.values():
        for name in ("refill", "lay_out"):
            setattr(slots, name, _timed(getattr(slots, name), spent))
    return spent


def _timed(work: Any, spent: list[float]) -> Any:
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = work(*args, **kwargs)
        spent.append(time.perf_counter() - began)
        return result

    return timed


def count_graphs() -> int:
    """Count the graphs that torch compiled in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def count_captured(trainer: Trainer) -> int:
    """Count the CUDA graphs that the trainer captured."""
    return trainer.graphs.count if trainer.graphs else 0


def profile_round(trainer: Trainer) -> dict[str, Any]:
    """Count the kernels of a step and their time, and what the host did at the driver, over one round.

    Returns:
        ``kernels`` and ``copies`` per step, ``busy_ms`` of both, ``driver`` (calls and milliseconds per step, by
        name), and ``largest``: kernels with the most time, in milliseconds per step and calls.
    """
    buckets = trainer.episodes.buckets
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        take_rounds(trainer, 1)
    kernels: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    waited: Counter[str] = Counter()
    for event in profiler.events() or ():
        microseconds = event.time_range.elapsed_us()
        if event.device_type.name == "CUDA":
            kernels[event.name] += 1
            spent[event.name] += microseconds
        elif event.name.startswith("cu"):
            calls[event.name] += 1
            waited[event.name] += microseconds
    moved = sum(count for name, count in kernels.items() if name.startswith(("Memcpy", "Memset")))
    per = {name: [calls[name] / buckets, waited[name] / buckets / 1e3] for name in calls}
    return {
        "kernels": (sum(kernels.values()) - moved) / buckets,
        "copies": moved / buckets,
        "busy_ms": sum(spent.values()) / buckets / 1e3,
        "driver": per,
        "largest": [
            [name[:90], round(us / buckets / 1e3, 4), kernels[name] / buckets]
            for name, us in spent.most_common(25)
        ],
    }

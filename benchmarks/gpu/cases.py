"""The cases of the benchmark in their order, each with the seconds after which it is stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu.evaluating import measure_evaluation
from benchmarks.gpu.waiting import measure_monitor, measure_waits
from benchmarks.performance.model.plain import LADDER
from benchmarks.performance.model.published import time_published
from benchmarks.performance.model.workload import PUBLISHED, load_real_tasks, make_config
from benchmarks.performance.section import Conditions
from benchmarks.performance.training.earlier import measure_earlier
from benchmarks.performance.training.peak import measure_peaks
from benchmarks.performance.training.runs import PAPER, SMALL, TINY, make_run
from benchmarks.performance.training.stepping import measure_steps
from etrm.config import Changes, with_settings

COMPILED: Changes = {"train": {"compile": True}}
STATIC: Changes = {"train": {"static_shapes": True}}
COMPILED_STATIC: Changes = {"train": {"compile": True, "static_shapes": True}}
RECOMPUTE: Changes = {"train": {"recompute": True}}
LOW: Changes = {"train": {"precision": "bfloat16"}}
WORKERS: Changes = {"data": {"workers": 8}}
GRAPHS: Changes = {
    "train": {"cuda_graphs": True, "static_shapes": True, "precision": "bfloat16"},
    "data": {"workers": 8},
}
COMPILED_GRAPHS: Changes = {
    "train": {"cuda_graphs": True, "static_shapes": True, "precision": "bfloat16", "compile": True},
    "data": {"workers": 8},
}
PAPER_GRAPHS: Changes = {"train": {"cuda_graphs": True}}
PAPER_COMPILED_GRAPHS: Changes = {"train": {"cuda_graphs": True, "compile": True}}
EVALUATION: Changes = {"evaluate": {"augmentations": 8, "batch_size": 256, "precision": "bfloat16"}}
SECONDS = 4.0
"""Seconds of timed steps of a case."""
WARM = 32
"""Rows with which graphs are compiled ahead: they serve any number, and leave memory to what runs besides."""


@dataclass(frozen=True)
class GpuCase:
    """One measurement, in a process of its own.

    Attributes:
        name: its name for ``--only``.
        measure: the function from the device to numbers.
        limit: seconds after which it is stopped.
        default: whether it runs unless ``--only`` names others.
    """

    name: str
    measure: Callable[[torch.device], dict[str, Any]]
    limit: float
    default: bool = True


def _steps(size: Changes, change: Changes | None = None, count: bool = False) -> Callable[..., Any]:
    def measure(device: torch.device) -> dict[str, Any]:
        seconds = SECONDS if device.type == "cuda" else 0.1
        return measure_steps(make_run(size, device, **(change or {})), seconds, count)

    return measure


def _earlier(size: Changes) -> Callable[..., Any]:
    def measure(device: torch.device) -> dict[str, Any]:
        return measure_earlier(make_run(size, device), SECONDS if device.type == "cuda" else 0.1)

    return measure


def _plain(device: torch.device) -> dict[str, Any]:
    """Time plain layers and ours, on the whole canvas with ten padded pairs: by name the seconds in each turn."""
    on_gpu = device.type == "cuda"
    train: Changes = {
        "train": {"batch_size": 4 if on_gpu else 1, "precision": "bfloat16" if on_gpu else "float32"}
    }
    model: Changes = {"model": (PAPER if on_gpu else TINY)["model"]}
    config = with_settings(with_settings(make_config(data=PUBLISHED), **train), **model)
    conditions = Conditions(device, 5 if on_gpu else 1)
    timings = time_published(config, load_real_tasks(), conditions, LADDER[:2] if on_gpu else LADDER[1:2])
    return {t.name: {"rows": config.train.batch_size, "seconds": t.seconds} for t in timings}


def _warm(size: Changes) -> Callable[..., Any]:
    def measure(device: torch.device) -> dict[str, Any]:
        return measure_steps(make_run(size, device, train={"compile": True, "batch_size": WARM}), 0.1, False)

    return measure


def _evaluation(device: torch.device) -> dict[str, Any]:
    few: Changes = {} if device.type == "cuda" else {"evaluate": {"max_tasks": 2, "augmentations": 1}}
    return measure_evaluation(with_settings(make_run(PAPER, device, **EVALUATION), **few))


CASES = (
    GpuCase(
        "peak", lambda device: measure_peaks(device, **({} if device.type == "cuda" else {"side": 64})), 40
    ),
    GpuCase("paper", _steps(PAPER, count=True), 80),
    GpuCase("paper-earlier", _earlier(PAPER), 80),
    GpuCase("evaluation", _evaluation, 100),
    GpuCase("paper-compiled", _steps(PAPER, COMPILED), 120),
    GpuCase("paper-graphs-compiled", _steps(PAPER, PAPER_COMPILED_GRAPHS), 120),
    GpuCase("paper-recompute", _steps(PAPER, RECOMPUTE), 60),
    GpuCase("small", _steps(SMALL, count=True), 45),
    GpuCase("small-earlier", _earlier(SMALL), 45),
    GpuCase("small-graphs", _steps(SMALL, GRAPHS), 60),
    GpuCase("small-graphs-compiled", _steps(SMALL, COMPILED_GRAPHS), 100),
    GpuCase("paper-graphs", _steps(PAPER, PAPER_GRAPHS), 80),
    GpuCase("paper-static", _steps(PAPER, STATIC), 60),
    GpuCase("small-compiled", _steps(SMALL, COMPILED), 75),
    GpuCase("small-compiled-static", _steps(SMALL, COMPILED_STATIC), 100),
    GpuCase("plain", _plain, 60),
    GpuCase("small-workers", _steps(SMALL, WORKERS), 45),
    GpuCase("waits", measure_waits, 45),
    GpuCase("monitor", lambda device: measure_monitor(device, 64), 45),
    GpuCase("small-bfloat16", _steps(SMALL, LOW), 40),
    GpuCase("warm-small", _warm(SMALL), 200, default=False),
    GpuCase("warm-paper", _warm(PAPER), 200, default=False),
)
"""In the order of what is to be known first, because the time may end before the last one. `paper-graphs-compiled` has
the graphs of `paper-compiled`, so the compiler finds them in its cache: its first step shows what the cache saves."""

"""Achieved matrix throughput of a training step over the machine's peak, and where the rest of the time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.performance.model.workload import (
    OURS,
    BatchLayout,
    LayoutRun,
    TrainingStep,
    load_real_tasks,
    make_config,
)
from benchmarks.performance.section import BenchmarkSection, Conditions, Table
from benchmarks.performance.timing import Contender, format_spread, synchronize, take_turns
from etrm.batch import Batch

WIDTHS = {"cpu": (64, 128, 256), "cuda": (128, 256, 512)}
SQUARES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
"""Sides of the products whose best is the peak."""
PROFILED = 64

VIEWS = frozenset(
    {"view", "reshape", "transpose", "t", "as_strided", "expand", "unsqueeze", "squeeze", "slice", "select"}
    | {"detach", "chunk", "split", "unbind", "permute", "alias", "empty", "empty_like", "empty_strided"}
)
"""Operations that compute nothing."""
KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("attention", ("scaled_dot_product", "flash_attention", "efficient_attention")),
    ("matrix products", ("mm", "matmul", "linear")),
    (
        "copies, gathers and fills",
        ("copy", "cat", "clone", "fill", "zero", "index", "embedding", "pad", "_to"),
    ),
    ("elementwise, norms and sums", ("",)),
)
"""Kinds of operations and what their names hold; the first that fits counts, the last is for all others."""
REST = "python, autograd, views and dispatch"


def measure_throughput(conditions: Conditions) -> BenchmarkSection:
    """Measure floating-point operations of a step per second at several widths, in turns with plain products."""
    device = conditions.device
    arms = {
        width: LayoutRun(
            BatchLayout(OURS), make_config(model={"hidden_size": width}), load_real_tasks(), device
        )
        for width in WIDTHS[device.type]
    }
    batches = {width: [arm.batches.next() for _ in range(8)] for width, arm in arms.items()}
    counted = {width: count_flops(arm.step, batches[width]) for width, arm in arms.items()}
    contenders = [_training(width, arm, batches[width]) for width, arm in arms.items()]
    contenders += [_square(side, device) for side in SQUARES[device.type]]
    timings = take_turns(contenders, conditions.repetitions, device)
    steps, squares = timings[: len(arms)], timings[len(arms) :]
    peaks = np.max(
        [2 * side**3 / np.array(t.seconds) for side, t in zip(SQUARES[device.type], squares, strict=True)],
        axis=0,
    )
    rows = []
    for width, timing in zip(arms, steps, strict=True):
        flops = sum(counted[width].values()) / len(batches[width])
        achieved = flops / np.array(timing.seconds)
        rows.append(
            (
                f"D {width}",
                f"{flops / 1e9:.3g}",
                format_spread(timing.seconds),
                format_spread(achieved / 1e9),
                format_spread(100 * achieved / peaks),
                f"{len(timing.seconds)} x {timing.units}",
            )
        )
    header = ("step", "GFLOP", "seconds", "GFLOP/s", "% of peak", "turns")
    table = Table(header, tuple(rows))
    seconds, wall = profile_steps(arms[PROFILED], batches[PROFILED], device)
    shares = _shares(seconds, wall, counted[PROFILED])
    largest = max(shares.rows, key=lambda row: float(row[1]))
    reached = ", ".join(f"{row[4]} % at {row[0]}" for row in rows)
    words = (
        f"A step reaches {reached} of the peak, which is the best of square float32 products in the same turns: "
        f"{format_spread(peaks / 1e9)} GFLOP/s. Operations are those of products and attention, forward and backward, "
        "counted by torch.utils.flop_counter.",
        f"At D {PROFILED} {largest[1]} % of the time is {largest[0]} (torch.profiler over {len(batches[PROFILED])} "
        "steps, once, self time on the main thread).",
    )
    return BenchmarkSection((table, shares), words)


def count_flops(step: TrainingStep, batches: Sequence[Batch]) -> dict[str, int]:
    """Count the operations of training on the batches by kind: matrix products and attention."""
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        for batch in batches:
            step(batch)
    counts = counter.get_flop_counts()["Global"]
    attention = sum(flops for operation, flops in counts.items() if operation in ATTENTION)
    return {"attention": attention, "matrix products": sum(counts.values()) - attention}


def _attention(query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
    """Count two products of all queries (B, H, L, E) with all keys."""
    batch, heads, length, size = query
    return 4 * batch * heads * length * key[2] * size


def _attention_backward(
    gradient: Sequence[int], query: Sequence[int], key: Sequence[int], *_: Any, **__: Any
) -> int:
    """Count four such products; scores that a kernel computes again do not count."""
    return 2 * _attention(query, key)


ATTENTION: dict[Any, Callable[..., int]] = {
    getattr(torch.ops.aten, f"_scaled_dot_product_{name}{suffix}"): formula
    for name, end in (("flash_attention", "_for_cpu"), ("flash_attention", ""), ("efficient_attention", ""))
    for suffix, formula in ((end, _attention), (f"{end}_backward", _attention_backward))
}
"""torch's counter does not know the CPU kernels, and counts recomputed scores of the others."""


def profile_steps(
    arm: LayoutRun, batches: Sequence[Batch], device: torch.device
) -> tuple[dict[str, float], float]:
    """Measure the seconds of each kind of operation in training on the batches, and the total."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    arm.step(batches[0])
    synchronize(device)
    with profile(activities=activities, acc_events=True) as profiler:
        began = time.perf_counter()
        for batch in batches:
            arm.step(batch)
        synchronize(device)
        wall = time.perf_counter() - began
    seconds = dict.fromkeys((kind for kind, _ in KINDS), 0.0)
    for event in profiler.key_averages():
        kind = classify(event.key)
        if (
            kind and event.device_type.name == "CPU"
        ):  # a GPU's time is listed under the operation that launched it
            seconds[kind] += (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
    return seconds, wall


def classify(name: str) -> str | None:
    """Return the kind of an operation; None if it computes nothing, such as a view or an autograd node."""
    operation = name.removeprefix("aten::")
    if operation == name or operation.strip("_") in VIEWS:
        return None
    return next(kind for kind, words in KINDS if any(word in operation for word in words))


def _shares(seconds: dict[str, float], wall: float, flops: dict[str, int]) -> Table:
    named = {**seconds, REST: wall - sum(seconds.values())}
    rows = tuple(
        (kind, f"{100 * spent / wall:.0f}", f"{flops[kind] / spent / 1e9:.3g}" if kind in flops else "")
        for kind, spent in named.items()
    )
    return Table(("of a step", "% of time", "GFLOP/s within"), rows)


def _training(width: int, arm: LayoutRun, batches: Sequence[Batch]) -> Contender:
    def work() -> None:
        for batch in batches:
            arm.step(batch)

    return Contender(f"D {width}", lambda: work, len(batches))


def _square(side: int, device: torch.device) -> Contender:
    a, b = torch.randn(2, side, side, device=device)
    times = max(1, 2048**3 // side**3) if device.type == "cpu" else 10

    def work() -> None:
        for _ in range(times):
            torch.mm(a, b)

    return Contender(f"{side}", lambda: work, times)

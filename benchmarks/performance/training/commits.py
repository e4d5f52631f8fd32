"""Training steps with the code of this checkout and with that of an earlier commit, at two sizes."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from benchmarks.performance.section import BenchmarkSection, Conditions, Table
from benchmarks.performance.timing import compute_ratios, format_spread
from benchmarks.performance.training.earlier import COMMIT, FOLDER, ROOT, earlier_code, run_steps
from benchmarks.performance.training.peak import measure_peaks
from benchmarks.performance.training.runs import FEW_ROWS, PAPER, SMALL, make_run
from benchmarks.performance.training.stepping import count_tflop
from etrm.config import Changes, Config
from etrm.training.trainer import Trainer

HEADER = ("size", "code", "rows per second", "x earlier", "% of peak", "operations", "GiB", "graphs", "turns")
SIDES = {"cpu": 2048, "cuda": 8192}
"""Sides of the products that measure the peak."""
SECONDS = 4.0
"""Seconds of a turn after which no further round begins."""


def compare_commits(conditions: Conditions) -> BenchmarkSection:
    """Time steps of ``small`` and of the paper's size with both codes in turns, each turn a new process."""
    device = conditions.device
    sizes = make_sizes(device)
    found: dict[str, dict[str, list[dict[str, Any]]]] = {size: {COMMIT: [], "this": []} for size in sizes}
    with ExitStack() as stack:
        try:
            earlier = stack.enter_context(earlier_code())
        except subprocess.CalledProcessError as error:
            return BenchmarkSection((), (_explain(error),))
        for _ in range(conditions.repetitions):
            for size, config in sizes.items():
                for name, folder in ((COMMIT, earlier), ("this", ROOT)):
                    found[size][name].append(run_steps(config, SECONDS, folder))
    tflop = {size: count_tflop(Trainer(config)) for size, config in sizes.items()}
    precision = "bfloat16" if device.type == "cuda" else "float32"
    peak = measure_peaks(device, side=SIDES[device.type])[precision]
    return build_section(found, tflop, peak, precision)


def make_sizes(device: torch.device) -> dict[str, Config]:
    """Build the configs by size: those of the benchmark on a GPU, or with few rows and buckets on a processor."""
    sizes: Mapping[str, Changes] = {"small": SMALL, "paper": PAPER}
    fewer = FEW_ROWS if device.type == "cpu" else {}
    return {name: make_run(size, device, tiny=False, **fewer.get(name, {})) for name, size in sizes.items()}


def build_section(
    found: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
    tflop: Mapping[str, float],
    peak: float,
    precision: str,
) -> BenchmarkSection:
    """Build the section from measured numbers.

    Args:
        found: the numbers of :func:`~benchmarks.performance.training.earlier_steps.measure` of each turn, by size and
            code; the first code is the base of ratios.
        tflop: 1e12 operations of a step, by size.
        peak: the rate of matrix products, in TFLOP/s.
        precision: the precision of these products.
    """
    rows = []
    for size, codes in found.items():
        base = [turn["ms_per_step"] for turn in next(iter(codes.values()))]
        for name, turns in codes.items():
            steps = [turn["ms_per_step"] for turn in turns]
            shares = 100 * tflop[size] / (np.array(steps) / 1e3) / peak
            rows.append(
                (
                    f"{size}, {turns[0]['rows']} rows",
                    name,
                    format_spread(turn["rows_per_second"] for turn in turns),
                    format_spread(compute_ratios(base, steps)),
                    format_spread(shares),
                    f"{turns[0]['operations']:.0f}",
                    f"{max(turn['gib'] for turn in turns):.2f}",
                    str(turns[0]["graphs"]),
                    f"{len(turns)} x {turns[0]['steps']}",
                )
            )
    counts = ", ".join(f"{1e3 * each:.3g} ({size})" for size, each in tflop.items())
    words = (
        f"The peak is that of square products in {precision}, {1e3 * peak:.0f} GFLOP/s. A step has {counts} GFLOP of "
        "products and attention, counted with this commit. Operations are those of torch in a step, forward and "
        "backward, without views. GiB are of the whole process, or on a GPU those of tensors.",
        "Each turn is a new process that trains without reading a step: one round over all buckets, on a GPU two, "
        f"then timed ones for {SECONDS:g} s. `paper` is the size of the published TRM (D 512, H 3, L 6).",
    )
    return BenchmarkSection((Table(HEADER, tuple(rows)),), words)


def _explain(error: subprocess.CalledProcessError) -> str:
    command = " ".join(map(str, error.cmd))
    return (
        f"Not measured: {command} ended with exit code {error.returncode}. {COMMIT} must be a commit of {ROOT}, "
        f"or ${FOLDER} a folder of its packages."
    )

"""The cost of watching a training step: plain and watched steps in turns, and memory over many steps.

As a command it trains in a separate process and prints its memory:
``python -m benchmarks.performance.toolkit.watching STEPS``
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext

import torch

from benchmarks.performance.model.memory import read_resident
from benchmarks.performance.section import BenchmarkSection, Conditions, Table
from benchmarks.performance.timing import Contender, Timing, Work, compute_ratios, format_spread, take_turns
from benchmarks.performance.toolkit.subjects import SUBJECTS, Subject, Training, toy
from diagnostics import Monitor

SAMPLED = 20
"""Steps per recorded step at leaf level."""
CHECKED = (2_000, 4_000, 6_000, 8_000, 10_000)
"""Steps after which memory is measured; the first is the length of the monitor's history."""
IDLE = 10**9


def measure_watching(conditions: Conditions) -> BenchmarkSection:
    """Measure the ratios within a turn for every model."""
    rows = [_row(subject, conditions) for subject in SUBJECTS]
    header = (
        "training step",
        "seconds, plain",
        "x at boundaries, every step",
        "ms more",
        "x in all, with the records",
        "leaf modules",
        "x a recorded step",
        "x a step between",
        f"x on average, 1 of {SAMPLED}",
        "turns",
    )
    words = (
        "In a turn each takes one step on the same batch with a model of its own: without a monitor; with the declared "
        "boundaries (encoder, core, heads) recorded; with every leaf module recorded; and with that monitor in a step "
        f"that it leaves out. The average is that of one recorded step and {SAMPLED - 1} others. The records of 32 "
        "steps are made together, in every 32nd turn or after the last one; the ratio of all turns has them.",
        memory_over_steps(),
    )
    return BenchmarkSection((Table(header, tuple(rows)),), words)


def _row(subject: Subject, conditions: Conditions) -> tuple[str, ...]:
    trainings = [subject.make(conditions.device) for _ in range(4)]
    leaves = trainings[2].leaves
    declared = monitor(trainings[1], trainings[1].boundaries)
    contenders = [
        watch_steps("plain", trainings[0], None),
        watch_steps("boundaries", trainings[1], declared),
        watch_steps("leaves", trainings[2], monitor(trainings[2], leaves)),
        watch_steps("between", trainings[3], monitor(trainings[3], leaves, every=IDLE)),
    ]
    timings = take_turns(contenders, conditions.repetitions, conditions.device)
    in_all = ratio_in_all(timings[1], timings[0], read_records(declared))
    plain, boundaries, recorded, between = timings
    more = [1e3 * (watched - plain) for watched, plain in zip(boundaries.seconds, plain.seconds, strict=True)]
    return (
        subject.name,
        format_spread(plain.seconds),
        format_spread(compute_ratios(boundaries.seconds, plain.seconds)),
        format_spread(more),
        f"{in_all:.3g}",
        str(len(leaves)),
        format_spread(compute_ratios(recorded.seconds, plain.seconds)),
        format_spread(compute_ratios(between.seconds, plain.seconds)),
        format_spread(on_average(recorded, between, plain, SAMPLED)),
        str(conditions.repetitions),
    )


def read_records(monitor: Monitor) -> float:
    """Measure the seconds in which the records of the steps that nobody has read yet are made."""
    start = time.perf_counter()
    assert monitor.history
    return time.perf_counter() - start


def ratio_in_all(watched: Timing, plain: Timing, records: float) -> float:
    """Compute the ratio of the sums over all turns; `records` are the seconds after the last one."""
    return (sum(watched.seconds) + records) / sum(plain.seconds)


def on_average(recorded: Timing, between: Timing, plain: Timing, every: int) -> list[float]:
    """Compute the ratio to plain steps for each turn, if one step in `every` is recorded."""
    mixed = [
        (once + (every - 1) * other) / every
        for once, other in zip(recorded.seconds, between.seconds, strict=True)
    ]
    return compute_ratios(mixed, plain.seconds)


def monitor(training: Training, watch: Sequence[str], every: int = 1) -> Monitor:
    """Build a monitor of some modules, with the arguments that a user would give."""
    rows = {name: function for name, function in training.rows.items() if name in watch}
    return Monitor(training.model, training.optimizer, watch=watch, rows=rows, every=every)


def watch_steps(name: str, training: Training, monitor: Monitor | None) -> Contender:
    """Build a contender that trains on one batch after the other, inside the steps of a monitor, if any."""
    numbers = itertools.count()

    def prepare() -> Work:
        number = next(numbers)

        def work() -> None:
            with nullcontext() if monitor is None else monitor.step(samples=training.samples):
                training.step(number)

        return work

    return Contender(name, prepare)


def memory_over_steps() -> str:
    """Describe in one sentence the memory of a watched run of the toy, measured in a separate process."""
    command = [sys.executable, "-m", "benchmarks.performance.toolkit.watching", *map(str, CHECKED)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    held = [value / 2**20 for value in json.loads(done.stdout)]
    listed = ", ".join(f"{value:.1f} after {steps:,}" for steps, value in zip(CHECKED, held, strict=True))
    return (
        "Resident memory of a process that trains the toy of width 16, its boundaries recorded in every step, MiB: "
        f"{listed} steps. The history of the monitor is full after {CHECKED[0]:,}."
    )


def measure_held(steps: Sequence[int]) -> list[int]:
    """Measure the bytes that this process holds after some numbers of watched steps of the toy."""
    training = toy(16, 50).make(torch.device("cpu"))
    contender = watch_steps("toy", training, monitor(training, training.boundaries))
    held, done = [], 0
    for count in steps:
        for _ in range(count - done):
            contender.prepare()()
        done = count
        held.append(read_resident("VmRSS"))
    return held


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure_held([int(steps) for steps in sys.argv[1:]])))

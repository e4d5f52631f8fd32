"""Time contenders in turns, and summarise their times as ratios within a turn."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch

Work = Callable[[], None]
SHORTEST = 1e-9
"""Seconds, of the shortest work: some clocks stand still for a while, and ratios divide by these times."""


@dataclass(frozen=True)
class Contender:
    """One of the compared programs.

    Attributes:
        name: the name in tables.
        prepare: a function that is called untimed before every turn and returns the work to time.
        units: the number of units in that work; times are per unit.
    """

    name: str
    prepare: Callable[[], Work]
    units: int = 1


@dataclass
class Timing:
    """The times of a contender, one value per turn.

    Attributes:
        name: the name of the contender.
        units: the number of units of work in a turn.
        seconds: wall times of a unit.
        cpu: processor times of a unit, all threads together.
    """

    name: str
    units: int = 1
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def take_turns(contenders: Sequence[Contender], repetitions: int, device: torch.device) -> list[Timing]:
    """Time all contenders in turns, after one untimed turn of each and a collection of garbage.

    The first full collection after torch was imported takes some 200 ms, and would fall on any of them.
    """
    for contender in contenders:
        contender.prepare()()
    gc.collect()
    timings = [Timing(contender.name, contender.units) for contender in contenders]
    for _ in range(repetitions):
        for contender, timing in zip(contenders, timings, strict=True):
            work = contender.prepare()
            synchronize(device)
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            synchronize(device)
            timing.seconds.append(max(time.perf_counter() - wall, SHORTEST) / contender.units)
            timing.cpu.append(max(time.process_time() - cpu, SHORTEST) / contender.units)
    return timings


def synchronize(device: torch.device) -> None:
    """Wait for a GPU to finish its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compute_ratios(slow: Iterable[float], fast: Iterable[float]) -> list[float]:
    """Compute how many times faster, for each turn."""
    return [a / b for a, b in zip(slow, fast, strict=True)]


def format_spread(values: Iterable[float]) -> str:
    """Format the median and the quartiles."""
    low, middle, high = np.percentile(list(values), (25, 50, 75))
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"


HEADER = ("seconds", "x first row", "x row above", "turns")
"""Columns of :func:`format_columns`."""


def format_columns(timings: Sequence[Timing]) -> list[tuple[str, ...]]:
    """Format each contender's time, and its ratios to the first contender and to the one above."""
    first = timings[0]
    cells: list[tuple[str, ...]] = [(format_spread(first.seconds), "1", "", _turns(first))]
    for above, timing in pairwise(timings):
        against = (format_spread(compute_ratios(other.seconds, timing.seconds)) for other in (first, above))
        cells.append((format_spread(timing.seconds), *against, _turns(timing)))
    return cells


def _turns(timing: Timing) -> str:
    return f"{len(timing.seconds)} x {timing.units}"

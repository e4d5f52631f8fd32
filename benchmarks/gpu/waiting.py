"""What the host waits for in a step that is not read, and what the monitor costs."""

from __future__ import annotations

import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.performance.training.runs import SMALL, make_run
from benchmarks.performance.training.stepping import take_rounds
from etrm.config import Changes, Config, with_settings
from etrm.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
EVERY = 5
"""Steps per reading, and per record of the monitor, where it is not in every step."""

ARMS: Mapping[str, Changes] = {
    "monitor off": {"train": {"log_every": EVERY}, "monitor": {"enabled": False}},
    "monitor 1 of 5": {"train": {"log_every": EVERY}, "monitor": {"every": EVERY}},
    "monitor 1 of 1": {"train": {"log_every": EVERY}, "monitor": {"every": 1}},
    "off, all read": {"train": {"log_every": 1}, "monitor": {"enabled": False}},
    "monitor 1 of 1, all read": {"train": {"log_every": 1}, "monitor": {"every": 1}},
}
"""What a run reads and records; the first arm is the base."""


def make_arms(device: torch.device, rows: int) -> dict[str, Config]:
    """Build the configs of the arms with so many rows, or those of the tiny run on a processor."""
    base = make_run(SMALL, device)
    if device.type == "cuda":
        base = with_settings(base, train={"batch_size": rows})
    return {name: with_settings(base, **changes) for name, changes in ARMS.items()}


def measure_waits(device: torch.device, rows: int = 64, rounds: int = 4) -> dict[str, Any]:
    """Count, per arm, the places at which the host waits for the device in steps that are read and not read.

    Returns:
        by arm, ``read`` and ``unread``: the number of steps, and how often a step waited at each place.
    """
    found = {}
    for name, config in make_arms(device, rows).items():
        trainer = Trainer(config)
        take_rounds(trainer, 2)
        places: dict[str, Counter[str]] = {"read": Counter(), "unread": Counter()}
        steps = Counter[str]()
        for _ in range(rounds * EVERY):
            kind = "read" if trainer._due(trainer.step + 1) else "unread"
            steps[kind] += 1
            with noted_waits(device, places[kind]):
                trainer.advance(read=kind == "read")
        found[name] = {
            kind: {"steps": steps[kind], "waits": dict(places[kind].most_common(20))} for kind in places
        }
    return found


@contextmanager
def noted_waits(device: torch.device, places: Counter[str]) -> Iterator[None]:
    """A context in which every wait that torch knows of is counted by the line of this repository that caused it."""
    if device.type != "cuda":
        yield
        return

    def note(message: Any, *_: Any, **__: Any) -> None:
        ours = [frame for frame in traceback.extract_stack() if str(ROOT) in frame.filename]
        place = next((f for f in reversed(ours) if f.filename != __file__), None)
        text = str(message)
        if "synchroniz" not in text:
            places[f"warning: {text[:120]}"] += 1
        elif place is not None:
            places[f"{Path(place.filename).relative_to(ROOT)}:{place.lineno} {place.line}"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def measure_monitor(device: torch.device, rows: int, turns: int = 12) -> dict[str, Any]:
    """Time the arms in turns of :data:`EVERY` steps, as the trainer runs them.

    Returns:
        by arm the median ``ms_per_step``, and the median and quartiles of its ratio to the first arm within a turn.
    """
    trainers = {name: Trainer(config) for name, config in make_arms(device, rows).items()}
    for trainer in trainers.values():
        take_rounds(trainer, 3)
        while trainer.step % EVERY:
            trainer.advance(read=False)
    spent: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(turns):
        for name, trainer in trainers.items():
            began = time.perf_counter()
            for _ in range(EVERY):
                trainer.advance(read=trainer._due(trainer.step + 1))
            spent[name].append((time.perf_counter() - began) / EVERY)
    base = np.array(next(iter(spent.values())))
    return {
        name: {
            "ms_per_step": 1e3 * float(np.median(times)),
            "ratio": [float(value) for value in np.percentile(np.array(times) / base, (50, 25, 75))],
        }
        for name, times in spent.items()
    }

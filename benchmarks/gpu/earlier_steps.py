"""Time training steps with the code that Python finds first: of this checkout, or of an earlier commit.

``python earlier_steps.py`` reads settings as JSON from standard input and uses only what aa7834e has too.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

import etrm
from etrm.config import load
from etrm.config.tree import build
from etrm.training.trainer import Trainer


def restrict(wanted: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return the known settings with the wanted values of those that are wanted too."""
    return {
        name: restrict(wanted[name], value) if isinstance(value, dict) else wanted[name]
        for name, value in known.items()
        if name in wanted
    } | {name: value for name, value in known.items() if name not in wanted}


def measure(settings: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Train without reading any step, and time whole rounds over all buckets after two others.

    Args:
        settings: the settings by section; those that this code does not have are left out.
        seconds: the time after which no further round begins.
    """
    config = build(restrict(settings, load("small").model_dump(mode="json")))
    trainer = Trainer(config)
    buckets, rows = trainer.episodes.buckets, config.train.batch_size

    def take_round() -> float:
        began = time.perf_counter()
        for _ in range(buckets):
            trainer.advance(read=False)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - began

    for _ in range(2):
        take_round()
    spent: list[float] = []
    while sum(spent) < seconds:
        spent.append(take_round())
    step = sum(spent) / len(spent) / buckets
    return {
        "rows": rows,
        "buckets": buckets,
        "steps": len(spent) * buckets,
        "ms_per_step": 1e3 * step,
        "ms_per_step_by_round": [round(1e3 * each / buckets, 3) for each in spent],
        "rows_per_second": rows / step,
        "code": str(Path(etrm.__file__).parents[1]),
        **({"gib": torch.cuda.max_memory_allocated() / 2**30} if torch.cuda.is_available() else {}),
    }


if __name__ == "__main__":
    given = json.load(sys.stdin)
    sys.stdout.write(json.dumps(measure(given["settings"], given["seconds"])) + "\n")

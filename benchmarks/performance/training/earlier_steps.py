"""Time training steps with the code that Python finds first: of this checkout, or of an earlier commit.

``python earlier_steps.py`` reads settings as JSON from standard input and uses only what aa7834e has too.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo.utils
from torch.utils._python_dispatch import TorchDispatchMode

import etrm
from etrm.config import load
from etrm.config.tree import build
from etrm.training.trainer import Trainer


def restrict(wanted: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return the known settings with the wanted values of those that are wanted too.

    A setting that was no text then, and is ``auto`` now, stays as it was.
    """
    kept = {}
    for name, value in known.items():
        new = wanted.get(name, value)
        if isinstance(value, dict) and isinstance(new, dict):
            new = restrict(new, value)
        elif new == "auto" and not isinstance(value, str):
            new = value
        kept[name] = new
    return kept


class OperationCounter(TorchDispatchMode):
    """Counts the calls of torch's operations in its context, forward and backward, without views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the operation and do it."""
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def measure(settings: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Train without reading any step, and time whole rounds over all buckets after others.

    Args:
        settings: the settings by section; those that this code does not have are left out.
        seconds: the time after which no further round begins.

    Returns:
        ``rows`` and ``buckets`` of the run, the number of timed ``steps``, ``ms_per_step`` of all and by round,
        ``rows_per_second``, ``operations`` of a step, ``graphs`` that torch compiled, ``gib`` of memory at most (of
        the process, or on a GPU of torch's tensors), and the folder of the ``code``.
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

    on_gpu = trainer.device.type == "cuda"
    for _ in range(2 if on_gpu else 1):  # on a processor nothing is compiled or captured
        take_round()
    spent: list[float] = []
    while sum(spent) < seconds:
        spent.append(take_round())
    step = sum(spent) / len(spent) / buckets
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # on Linux
    gib = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else kibibytes / 2**20
    with OperationCounter() as counter:
        take_round()
    return {
        "rows": rows,
        "buckets": buckets,
        "steps": len(spent) * buckets,
        "ms_per_step": 1e3 * step,
        "ms_per_step_by_round": [round(1e3 * each / buckets, 3) for each in spent],
        "rows_per_second": rows / step,
        "operations": counter.count / buckets,
        "graphs": int(torch._dynamo.utils.counters["stats"]["unique_graphs"]),
        "gib": gib,
        "code": str(Path(etrm.__file__).parents[1]),
    }


if __name__ == "__main__":
    given = json.load(sys.stdin)
    sys.stdout.write(json.dumps(measure(given["settings"], given["seconds"])) + "\n")

"""Schedules of the learning rate in a running program whose optimiser is not the one that trains."""

from __future__ import annotations

import gc
from collections.abc import Collection
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from diagnostics.auditing.scripts.live_objects import held_by
from diagnostics.findings import Evidence, Finding
from diagnostics.rules.families.weights.rate_swings import NO_EFFECT, RATE001


def find_idle_schedules(stepped: Collection[Optimizer]) -> list[Finding]:
    """RATE001 for the first schedule that advanced, whose optimiser never stepped, and another one has its weights.

    Args:
        stepped: The optimisers that stepped.
    """
    for schedule in (each for each in gc.get_objects() if issubclass(type(each), LRScheduler)):
        held: Any = vars(schedule)
        optimizer, advanced = held.get("optimizer"), held.get("last_epoch", 0)
        if not isinstance(optimizer, Optimizer) or advanced < 1 or any(optimizer is each for each in stepped):
            continue
        weights = held_by([optimizer])
        if any(not weights.isdisjoint(held_by([each])) for each in stepped):
            cause = NO_EFFECT.of(schedule=type(schedule).__name__)
            evidence = Evidence(RATE001.metric, float(advanced), None, 0, 0)
            return [RATE001.finding("", f"model: {cause}", evidence, cause)]
    return []

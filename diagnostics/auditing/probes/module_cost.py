"""The share of a forward pass that each module takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.rules.rule import NOTE, Family, Rule
from diagnostics.selection import select_modules
from diagnostics.testing.failure import failure

MODULE_COST = Cause("module-cost", "the computation of the modules")
COST001 = Rule(
    "COST001",
    NOTE,
    "Cost of a forward pass",
    "time_share",
    "To make the model faster, begin with the largest share.",
    source="audit",
    causes=(MODULE_COST,),
    arguments="Cost",
    what="The probe `Cost`, always: the time of a forward pass and the share of each watched module.",
    why="The expensive part is often not the expected one.",
    example="An encoder that takes 80 % of a step, while 4 % of its rows are used (WASTE001).",
    false_alarms="None: it is a note. Shares of nested modules do not add up to one.",
)
FAMILY = Family(200, "Cost", (COST001,))


@dataclass(frozen=True)
class Cost:
    """COST001, a note: the share of the forward pass that each module takes.

    Attributes:
        forward: Function (model, batch) that runs a forward pass.
        watch: Names or patterns of modules, as for `Monitor`.
        repeats: Number of forward passes; the fastest counts, since the others waited for something.
    """

    forward: Callable[[nn.Module, Any], Any]
    watch: Sequence[str] | None = None
    repeats: int = 3
    rule: ClassVar[str] = "COST001"

    @torch.no_grad()
    def run(self, model: nn.Module, batch: Any) -> list[Finding]:
        """Times on the clock of the host; on a GPU the host waits after each module."""
        best, shares = math.inf, dict[str, float]()
        for _ in range(self.repeats):
            with _stopwatch(select_modules(model, self.watch)) as times:
                start = _now()
                self.forward(model, batch)
                total = _now() - start
            if total < best:
                best, shares = total, {name: spent / total for name, spent in times.items()}
        first = max(shares, key=lambda name: shares[name], default="")
        listed = ", ".join(
            f"{name or 'model'} {share:.0%}"
            for name, share in sorted(shares.items(), key=lambda pair: -pair[1])
        )
        return [
            failure(
                COST001,
                first,
                f"a forward pass takes {best * 1e3:.3g} ms: {listed or 'no watched module was called'}",
                shares.get(first, math.nan),
                None,
                MODULE_COST,
            )
        ]


@contextmanager
def _stopwatch(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, float]]:
    """Seconds inside each module, over all its calls."""
    spent: dict[str, float] = {}
    begun: dict[str, float] = {}
    handles = []
    for name, module in modules.items():

        def start(module: nn.Module, args: Any, name: str = name) -> None:
            begun[name] = _now()

        def stop(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
            spent[name] = spent.get(name, 0.0) + _now() - begun[name]

        handles += [module.register_forward_pre_hook(start), module.register_forward_hook(stop)]
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()

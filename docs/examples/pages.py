"""Renews pages of this folder from real runs: `python docs/examples/pages.py [NAME ...]` (extra `examples`)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Any

import bert
import recursive
import resnet
import torch
from torch import Tensor

from diagnostics import Finding, Monitor, Severity, audit

EXAMPLES = (bert, resnet, recursive)
STEPS = 100


def train(case: dict[str, Any], samples: int, steps: int = STEPS) -> tuple[list[float], list[Finding]]:
    """A training loop of one's own with a monitor in it: the losses, and what was found."""
    model, optimizer = case["model"], case["optimizer"]
    options = {name: case[name] for name in ("watch", "expect_partial") if name in case}
    losses = []
    with Monitor(model, optimizer, **options) as monitor:
        for batch in islice(cycle(case["batches"]), steps):
            with monitor.step(samples=samples):
                loss = case["step"](model, batch)
                if isinstance(loss, Tensor):  # else the step has done the rest itself
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
            losses.append(loss.item() if isinstance(loss, Tensor) else loss)
        return losses, monitor.findings()


def named(findings: list[Finding] | tuple[Finding, ...]) -> str:
    """Rule and module of what is above a note."""
    above = [finding for finding in findings if finding.severity > Severity.NOTE]
    return ", ".join(f"{finding.rule} {finding.module or 'model'}" for finding in above) or "nothing"


def page(example: ModuleType) -> str:
    """A table of all cases: what the audit and the monitor name, and the loss."""
    intro, _, command = (example.__doc__ or "").partition("\n\n")
    head = ("function", "what it is", "audit, 20 steps", f"monitor, {STEPS} steps", "loss")
    lines = [head, ("---",) * len(head)]
    for make in example.CASES:
        torch.set_num_threads(1)
        report = audit(**make())
        losses, findings = train(make(), example.SAMPLES)
        fall = f"{mean(losses[:5]):.3f} to {mean(losses[-5:]):.3f}"
        lines.append((f"`{make.__name__}`", what(make), named(report.findings), named(findings), fall))
    table = "\n".join(f"|{'|'.join(line)}|" for line in lines)
    return f"# {intro}\n\n{command.strip()}\n\n{table}\n"


def what(make: Callable[..., Any]) -> str:
    """The docstring of a case as one line."""
    return " ".join((make.__doc__ or "").split())


if __name__ == "__main__":
    for example in EXAMPLES:
        if sys.argv[1:] and example.__name__ not in sys.argv[1:]:
            continue
        Path(__file__).with_name(f"{example.__name__}.md").write_text(page(example), encoding="utf-8")

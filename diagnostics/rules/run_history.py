"""What rules about many steps are given: everything that a monitor recorded of a run so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from diagnostics.findings import Finding
from diagnostics.measures.drift import DriftProbe
from diagnostics.records import StepRecord, StepScalars
from diagnostics.rules.options import Values


@dataclass(frozen=True)
class RunHistory:
    """A run up to now.

    Attributes:
        steps: Scalars of the recorded steps that the monitor still holds, in order.
        last: Record of the latest step, None before the first.
        regularisers: Names of the terms of the loss that are not of the task.
        probes: Outputs on a fixed batch, by module.
    """

    steps: Sequence[StepScalars]
    last: StepRecord | None = None
    regularisers: frozenset[str] = frozenset()
    probes: Mapping[str, DriftProbe] = field(default_factory=dict)


HistoryCheck = Callable[[RunHistory, Values], Iterable[Finding]]
"""`check(run, options)`: the findings in a run, given the values of the rule's options."""

"""The checks that read the operations of a few steps and repeat none: an audit makes them, and so does a monitor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from diagnostics.auditing.probes.input_checks import check_first_layers, check_selections
from diagnostics.auditing.probes.late_changes import check_clipping
from diagnostics.auditing.probes.operations.bookkeeping import check_bookkeeping, check_frozen_dropouts
from diagnostics.auditing.probes.operations.call_checks import check_calls
from diagnostics.auditing.probes.operations.loss_checks import (
    check_arrived,
    check_derivatives,
    check_untrained,
)
from diagnostics.auditing.probes.operations.mask_checks import check_masks
from diagnostics.auditing.probes.operations.operation_checks import check_operations
from diagnostics.auditing.probes.operations.unit_checks import check_units
from diagnostics.auditing.probes.response_probe import check_draws
from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.findings import Finding


def check_traces(
    model: nn.Module, traces: Sequence[OperationTrace], samples: int, owner: Callable[[str], str]
) -> list[Finding]:
    """The findings of all of these checks.

    Args:
        traces: The operations of each step.
        samples: Number of samples in a step.
        owner: Function full name of a module -> the innermost watched module that contains it.
    """
    return [
        *check_operations(traces, samples, owner),
        *check_masks(traces, samples),
        *check_draws(traces, owner),
        *check_units(traces, owner),
        *check_arrived(traces, owner, all(trace.updates.ascends for trace in traces)),
        *check_calls(traces, owner),
        *check_untrained(traces),
        *check_derivatives(traces),
        *check_bookkeeping(traces),
        *check_frozen_dropouts(model, traces),
        *check_clipping(traces),
        *check_first_layers(traces, owner),
        *check_selections(traces),
    ]

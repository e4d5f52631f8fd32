"""Whether a recurrent layer reads the samples of a batch as the steps of a sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from diagnostics.auditing.observed_step import ObservedStep
from diagnostics.auditing.probes.next_tokens import follows_along
from diagnostics.auditing.tracing.recorded_calls import RecurrentCall
from diagnostics.findings import Finding
from diagnostics.testing.output_assertions import LEAK001, STEPS_ARE_SAMPLES


def check_recurrent(steps: Sequence[ObservedStep], owner: Callable[[str], str]) -> list[Finding]:
    """LEAK001 where dimension 0 is the time for a recurrent layer, and the samples for the loss, in every step.

    Args:
        steps: Steps whose backward passes ran.
        owner: Function full name of a module -> the innermost watched module that contains it.
    """
    calls = [
        next((each for each in step.trace.layers.recurrent if _misreads(each, step)), None) for step in steps
    ]
    if not calls or calls[0] is None or not all(calls):
        return []
    operation = calls[0].operation
    return [LEAK001.found_once(owner(operation.module), STEPS_ARE_SAMPLES.of(operation=operation))]


def _misreads(call: RecurrentCall, step: ObservedStep) -> bool:
    first, second = call.shape
    if first == second or min(first, second) < 2:
        return False
    looked_up = [each for lookups in step.looked_up.values() for each in lookups]
    tokens = [each for each in looked_up if tuple(each.shape) == call.shape]
    if any(follows_along(each, step) == 1 for each in tokens):
        return True
    targets = [each.target for each in step.trace.losses.compared]
    labelled = bool(targets) and all(each.dim() > 0 and len(each) == first for each in targets)
    return labelled and call.at_result.value is not None and _counts_once(call.at_result.value)


def _counts_once(gradient: Tensor) -> bool:
    """Whether of the outputs (T, B, features) one index of B has gradient for several of T, and no other has any."""
    counts = (gradient != 0).any(-1)
    return int(counts.any(0).sum()) == 1 and int(counts.any(1).sum()) > 1

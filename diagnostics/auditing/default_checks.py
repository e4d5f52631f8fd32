"""What an audit checks without being asked: the operations of a step, independent samples, the first broken number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.auditing.probes.operation_checks import check_operations
from diagnostics.auditing.probes.probe import explain_by_probes
from diagnostics.auditing.replay import StepStart, find_broken, trace_step
from diagnostics.errors import ToolkitError
from diagnostics.findings import Finding, Severity
from diagnostics.recording.tensors import tensors_in
from diagnostics.rules.families.reach import OVERFLOW_IN_OPERATION
from diagnostics.selection import innermost
from diagnostics.testing.failure import CheckFailed
from diagnostics.testing.output_assertions import assert_sample_independence
from diagnostics.testing.trials import untouched

Step = Callable[[nn.Module, Any], Any]
BATCHES = 3
"""Batches that are repeated: what holds in three is no accident of one."""


def run_checks(
    model: nn.Module,
    step: Step,
    batches: Sequence[Any],
    optimizers: Sequence[Optimizer],
    watched: Mapping[str, nn.Module],
    samples: int,
    independence: bool,
) -> list[Finding]:
    """The findings of the checks that every audit makes; the model is restored.

    Args:
        batches: Up to `BATCHES` different batches.
        watched: Watched modules by name.
        samples: Number of samples in the last batch.
        independence: Whether to test that samples do not influence each other.
    """

    def owner(module: str) -> str:
        return innermost(f"{module}.", watched)

    with _first_call(model, watched) as calls:
        traces = [trace_step(model, step, batch, optimizers) for batch in batches]
    known = [trace for trace in traces if trace is not None]
    found = check_operations(known, samples, owner) if len(known) == len(traces) else []
    if independence and calls:
        mixing = _check_independence(model, *calls[-1], samples=samples, watched=watched)
        found = explain_by_probes(mixing, found)
    return found


def explain_broken(
    findings: Sequence[Finding],
    model: nn.Module,
    step: Step,
    start: StepStart | None,
    optimizers: Sequence[Optimizer],
    watched: Mapping[str, nn.Module],
) -> list[Finding]:
    """The findings, with the operation that made the first number that is not finite where a repeated step shows it."""
    at = next((place for place, each in enumerate(findings) if each.rule == "REACH003"), None)
    if at is None or start is None or findings[at].code == "diverged-rate":
        return list(findings)
    broken = find_broken(model, step, start, optimizers)
    if broken is None:
        return list(findings)
    cause = OVERFLOW_IN_OPERATION.of(phase=broken.phase, operation=broken.operation)
    module = innermost(f"{broken.operation.module}.", watched) or findings[at].module
    first = f"{module or 'model'}: step {start.number} gives the first number that is not finite"
    message = f"{first}. {findings[at].message}"
    better = replace(findings[at], cause=str(cause), code=cause.code, module=module, message=message)
    return [*findings[:at], better, *findings[at + 1 :]]


Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


@contextmanager
def _first_call(model: nn.Module, watched: Mapping[str, nn.Module]) -> Iterator[list[Call]]:
    """The arguments of the model's calls."""
    calls: list[Call] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((module, args, kwargs))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def _check_independence(
    model: nn.Module,
    called: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    samples: int,
    watched: Mapping[str, nn.Module],
) -> list[Finding]:
    """LEAK001 as a warning, where all tensors that the model is given have the samples as first dimension."""
    given = list(tensors_in((args, kwargs)))
    if any(tensor.is_nested for tensor in given):
        return []
    led = all(tensor.dim() and tensor.shape[0] == samples for tensor in given)
    paired = any(tensor.dim() == 2 and tensor.shape[0] == tensor.shape[1] for tensor in given)
    if samples < 2 or not given or not led or paired:
        return []  # rows that are related by an index or a matrix, as the nodes of a graph, are meant to mix
    with untouched(model):
        model.eval()
        try:
            assert_sample_independence(
                model,
                [args, kwargs],
                forward=lambda inputs: _without_pairs(model(*inputs[0], **inputs[1]), samples),
                watch=list(watched),
            )
        except CheckFailed as failed:
            return [replace(each, severity=Severity.WARNING) for each in failed.findings]
        except (ToolkitError, RuntimeError):
            return []  # the samples are equal, or the model cannot run on its own in evaluation mode
    return []


def _without_pairs(output: Any, samples: int) -> Any:
    """The output without similarities of all pairs of samples, which mix them by design."""
    kept = [tensor for tensor in tensors_in(output) if not _has_pairs(tensor, samples)]
    return kept or torch.zeros(samples, 1)


def _has_pairs(tensor: Tensor, samples: int) -> bool:
    return tensor.dim() > 1 and tensor.shape[1] == samples == tensor.shape[0]

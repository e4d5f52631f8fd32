"""What every audit checks: the operations of a step, independent samples, the first broken number, the response."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.auditing.observed_step import observe_step
from diagnostics.auditing.probes.data_checks import check_data
from diagnostics.auditing.probes.input_checks import (
    INPUT003,
    check_inputs,
)
from diagnostics.auditing.probes.model_checks import LINEAR001, STATE001, check_model
from diagnostics.auditing.probes.negative_indices import check_negative_indices
from diagnostics.auditing.probes.operations.branch_checks import check_branches
from diagnostics.auditing.probes.operations.drawn_targets import check_drawn_scores, check_drawn_targets
from diagnostics.auditing.probes.operations.flat_scores import check_flat_scores
from diagnostics.auditing.probes.operations.loss_checks import (
    LOSS006,
    check_added,
    check_loss,
    check_recomputed,
    check_sign,
)
from diagnostics.auditing.probes.operations.pairing import check_pairing
from diagnostics.auditing.probes.probe import explain_by_probes
from diagnostics.auditing.probes.response_probe import RESULT_UNUSED, Response
from diagnostics.auditing.recomputation import find_recomputed
from diagnostics.auditing.replay import StepStart, find_broken, trace_step
from diagnostics.auditing.responses import Loss, evaluate_again, is_same
from diagnostics.auditing.trace_checks import check_traces
from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.auditing.tracing.recorders.update_order import maximizes
from diagnostics.errors import ToolkitError
from diagnostics.findings import Finding, Severity
from diagnostics.recording.random_numbers import RandomState
from diagnostics.recording.tensors import map_tensors, tensors_in
from diagnostics.recording.weak_hooks import LocalHook
from diagnostics.records import ModuleRecord, StepRecord
from diagnostics.rules.families.forward.calls import is_unchosen
from diagnostics.rules.families.gradients.module_gradients import DETACHED, GRAD001, GRAD002, is_target
from diagnostics.rules.families.gradients.not_finite import OVERFLOW_IN_OPERATION
from diagnostics.rules.families.gradients.task_terms import TERM001
from diagnostics.rules.rule import learners
from diagnostics.selection import innermost
from diagnostics.testing.failure import CheckFailed
from diagnostics.testing.output_assertions import COMPETE, assert_sample_independence, find_place_dependence
from diagnostics.testing.trials import nudge, untouched

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

    with _first_call(model) as calls:
        traces = [trace_step(model, step, batch, optimizers) for batch in batches]
    known = [trace for trace in traces if trace is not None]
    found: list[Finding] = []
    if known and len(known) == len(traces):
        found += check_traces(model, known, samples, owner)
        found += _check_added(model, step, batches[-1], optimizers, known[-1])
        found += check_drawn_targets(model, step, batches[-1], optimizers)
        found += check_drawn_scores(model, step, batches[-1], optimizers, known[-1])
        found += check_flat_scores(model, step, batches[-1], optimizers, known, owner)
        found += check_negative_indices(model, step, batches, optimizers)
        found += check_recomputed(find_recomputed(model, step, batches[-1], optimizers), owner)
    found += _check_again(model, step, batches, optimizers, watched, owner)
    if any(each.rule == INPUT003.id for each in found):  # the layers have seen next to one sample
        found = [each for each in found if each.rule != LINEAR001.id]
    mixing: list[Finding] = []
    if independence and calls and all(each.rule != STATE001.id for each in found):
        mixing = _check_independence(model, *calls[-1], samples=samples, watched=watched)
        notes = [each for each in mixing if each.severity <= Severity.NOTE]  # these explain nothing
        found = [*explain_by_probes([each for each in mixing if each not in notes], found), *notes]
    if known and not mixing:  # or each row depends on others anyhow
        found += check_pairing(model, step, batches[-1], optimizers, samples)
    return found


def _check_added(
    model: nn.Module, step: Step, batch: Any, optimizers: Sequence[Optimizer], trace: OperationTrace
) -> list[Finding]:
    """LOSS006: the step again with other weights, if something without a graph is added to its loss."""
    if not trace.added.of_losses():
        return []
    with untouched(model):
        random = RandomState()
        nudge(model, seed=0)
        random.restore()
        again = trace_step(model, step, batch, optimizers)
    return [] if again is None else check_added(trace, again)


def _check_again(
    model: nn.Module,
    step: Step,
    batches: Sequence[Any],
    optimizers: Sequence[Optimizer],
    watched: Mapping[str, nn.Module],
    owner: Callable[[str], str],
) -> list[Finding]:
    """What steps show that are repeated up to their loss; nothing for a step that does not end there."""
    found: list[Finding] = []
    if not batches:
        return found
    with _known_to_fail():
        with untouched(model, optimizers):
            steps = [observe_step(model, step, batch) for batch in batches]
            known = [each for each in steps if each is not None]
            if len(known) == len(steps):
                found = check_loss(known, owner, maximizes(optimizers))
                found += check_branches([each.trace for each in known], owner)
        with untouched(model, optimizers):
            found += check_data(model, known, owner)
        if len(known) == len(steps):
            with untouched(model, optimizers):
                found += check_inputs(model, known)
            with untouched(model, optimizers):
                found += check_model(model, known, owner)
        if known and len(known) == len(steps):
            with untouched(model, optimizers):
                start = StepStart(model, batches[-1], 0)
                found += check_sign(model, lambda: step(model, batches[-1]), watched, start.restore_buffers)
    return found


@contextmanager
def _known_to_fail() -> Iterator[None]:
    """A step that cannot be repeated under a recording, as that of a compiled model, ends the check and no more."""
    try:
        yield
    except (ToolkitError, RuntimeError):
        return


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
    within = innermost(f"{broken.operation.module}.", watched)
    feeding = {innermost(f"{each}.", watched) for each in broken.sources}
    module = within or (feeding.pop() if len(feeding) == 1 else "")
    if broken.phase == "backward":  # nothing is known of its arguments
        module = within or findings[at].module
    first = f"{module or 'model'}: step {start.number} gives the first number that is not finite"
    message = f"{first}. {findings[at].message}"
    better = replace(findings[at], cause=str(cause), code=cause.code, module=module, message=message)
    return [*findings[:at], better, *findings[at + 1 :]]


def respondents(record: StepRecord) -> list[str]:
    """The watched modules of a step that the loss should respond to: trained, no target networks, and not left out."""
    return [
        name
        for name, module in learners(record)
        if not is_target(record, name) and not is_unchosen(record, name) and not _waits(record, name, module)
    ]


def _waits(record: StepRecord, name: str, module: ModuleRecord) -> bool:
    """Whether a batch does without a module that others have trained."""
    return module.state == "not called" and any(each.largest > 0.0 for each in record.held_by(name))


def check_response(
    model: nn.Module, loss: Loss, batch: Any, watched: Sequence[str], regularisers: Sequence[str]
) -> list[Finding]:
    """RESPONSE001 to RESPONSE003 for some modules; none where the loss cannot be computed again.

    Args:
        loss: Function (model, batch) -> the loss with its graph, or its terms by name.
        watched: Names of modules.
        regularisers: Names of the terms that are not of the task.
    """
    if not watched:
        return []
    try:
        before = evaluate_again(model, loss, batch)
        found = Response(loss, watched, regularisers).run(model, batch) if before is not None else []
        after = evaluate_again(model, loss, batch, times=1) if found else None
        same = before is not None and after is not None and is_same([*before, *after])
        return found if same else []  # the loop keeps a state of its own, which changes the loss too
    except (ToolkitError, RuntimeError):
        return []  # the loss is not finite, or the step has effects beyond the model


_SEES_THE_CUT = (GRAD001.id, GRAD002.id, TERM001.id)


def add_responses(found: Sequence[Finding], responses: Sequence[Finding]) -> list[Finding]:
    """Those findings of the response test that say more than the monitor's.

    A monitor sees where a graph ends, and names that more exactly than a response can. It cannot tell an output whose
    gradient is cut from one that nothing reads.
    """
    flat = [each for one in found for each in (one, *one.consequences)]
    causes = {each.module: each.code for each in flat if each.rule in _SEES_THE_CUT}
    more = []
    for response in responses:
        known = causes.get(response.module)
        if known is None or (response.code == RESULT_UNUSED.code and known == DETACHED.code):
            more.append(response)
    return more


def fold_terms(found: Sequence[Finding], checked: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
    """Both lists, with a term without graph under the module whose output was cut on its way to that term."""
    terms = [each for each in checked if each.rule == LOSS006.id]
    cut = next((each for each in found if each.rule == GRAD001.id and each.severity > Severity.NOTE), None)
    if cut is None or not terms:
        return list(found), list(checked)
    held = replace(cut, consequences=(*cut.consequences, *terms))
    left = [each for each in checked if each not in terms]
    return [held if each is cut else each for each in found], left


Call = tuple[tuple[Any, ...], dict[str, Any]]


@contextmanager
def _first_call(model: nn.Module) -> Iterator[list[Call]]:
    """The arguments of the model's calls."""
    calls: list[Call] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))

    handle = model.register_forward_pre_hook(LocalHook(note), with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def _check_independence(
    model: nn.Module,
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
    paired = paired or any(tuple(each.shape) == (samples, samples) for each in model.buffers())
    if samples < 2 or not given or not led or paired:
        return []  # rows that are related by an index or a matrix, as the nodes of a graph, are meant to mix
    with untouched(model):
        model.eval()
        try:
            if any(tensor.dim() == 1 for tensor in given):  # a number per sample, or a vector of that length
                with torch.no_grad():
                    model(*_without_last(args), **_without_last(kwargs))

            def forward(inputs: Any) -> Any:
                return _without_pairs(model(*inputs[0], **inputs[1]), samples)

            assert_sample_independence(model, [args, kwargs], forward=forward, watch=list(watched))
            moved = find_place_dependence(model, [args, kwargs], forward=forward, watch=list(watched))
            return [] if moved is None else [replace(moved, severity=Severity.WARNING)]
        except CheckFailed as failed:
            return [
                replace(each, severity=Severity.NOTE if each.code == COMPETE.code else Severity.WARNING)
                for each in failed.findings
            ]
        except (ToolkitError, RuntimeError):
            return []  # the samples are equal, or the model cannot run on its own or with one sample less
    return []


def _without_last(given: Any) -> Any:
    """The same arguments without the last sample."""
    return map_tensors(given, lambda each: each[:-1])


def _without_pairs(output: Any, samples: int) -> Any:
    """The output without similarities of all pairs of samples, which mix them by design."""
    kept = [tensor for tensor in tensors_in(output) if not _has_pairs(tensor, samples)]
    return kept or torch.zeros(samples, 1)


def _has_pairs(tensor: Tensor, samples: int) -> bool:
    return tensor.dim() > 1 and tensor.shape[1] == samples == tensor.shape[0]

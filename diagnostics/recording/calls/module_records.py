"""Reduces the calls and parameters of one watched module to its record of the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diagnostics.recording.calls.sample_coverage import measure_coverage, measure_evenness, measure_waste
from diagnostics.recording.process_group import ModuleFacts
from diagnostics.recording.sample_sizes import alone
from diagnostics.records import (
    Absent,
    CallRecord,
    GradientState,
    ModuleRecord,
    Number,
    ParameterRecord,
    root_sum_squares,
)
from diagnostics.records.columns import Column

_NO_PARAMETERS = Absent("it has no parameters", "no-parameters")
_NO_ROWS = Absent("no gradient arrived at a row", "no-gradient")


def module_record(
    samples: int,
    facts: ModuleFacts,
    parameters: Mapping[str, ParameterRecord],
) -> ModuleRecord:
    """The record of one module.

    Args:
        samples: Samples in the loss, B.
        facts: Facts that were recorded about it.
        parameters: The module's parameters, those of its submodules included.
    """
    calls, unmatched = facts.calls, facts.unmatched
    state = _gradient_state(calls)
    gradients = alone(samples, calls) if facts.sizes is None else facts.sizes
    coverage = measure_coverage(samples, gradients, calls, unmatched, state, parameters)
    trainable = [
        record.reach.kind
        for record in parameters.values()
        if record.requires_grad and not record.expect_frozen
    ]
    norms = [record.reach.norm for record in parameters.values()]
    arrived = [
        call.largest
        for call in calls
        if not isinstance(call.row_gradients, Absent) and call.rows  # none has a gradient of no rows
    ]
    return ModuleRecord(
        coverage=coverage,
        waste=measure_waste(samples, coverage, calls),
        evenness=measure_evenness(samples, coverage, gradients, unmatched),
        calls=calls,
        state=state,
        gradient_max=_largest(arrived) if arrived else _NO_ROWS,
        grad_norm_pre_clip=_norm(norms),
        grad_norm_post_clip=_norm(
            [
                record.place if isinstance(record.place, Absent) else record.place.norm
                for record in parameters.values()
            ]
        ),
        moved=_moved(parameters),
        leverage=root_sum_squares(
            norm * record.weight_norm
            for norm, record in zip(norms, parameters.values(), strict=True)
            if not isinstance(norm, Absent)
        ),
        params_total=len(parameters),
        params_trainable=len(trainable),
        params_none=trainable.count("none"),
        params_zero=trainable.count("zero"),
        output=facts.output if isinstance(facts.output, Absent) else facts.output.stats(),
        evaluating=facts.evaluating,
    )


def _largest(sizes: Sequence[Any]) -> Any:
    """The largest, NaN where one is: `max` would depend on their order."""
    column = next((size for size in sizes if isinstance(size, Column)), None)
    return _largest_or_nan(None, *sizes) if column is None else column.compute(_largest_or_nan, *sizes)


def _largest_or_nan(_: Any, *sizes: float) -> float:
    return next((size for size in sizes if size != size), max(sizes))


def _gradient_state(calls: Sequence[CallRecord]) -> GradientState:
    live = [call for call in calls if call.rows != 0]
    if not live:
        return "not called"
    if any(call.gradient for call in live):
        return "arrived"
    if any(call.reached for call in live):
        return "zero"
    if not any(call.grad_enabled for call in live):
        return "no_grad"
    return "detached" if any(call.requires_grad for call in live) else "cut inside"


def _norm(norms: Sequence[Number]) -> Number:
    known = [norm for norm in norms if not isinstance(norm, Absent)]
    if known:
        norm: Number = root_sum_squares(known)
        return norm
    return next((norm for norm in norms if isinstance(norm, Absent)), _NO_PARAMETERS)


def _moved(parameters: Mapping[str, ParameterRecord]) -> Number:
    if not parameters:
        return _NO_PARAMETERS
    update = root_sum_squares(record.update_norm for record in parameters.values())
    weight = root_sum_squares(record.weight_norm for record in parameters.values())
    if weight == 0.0 and update > 0.0:
        return Absent(
            f"its weights were all zero when the step began; they moved by {update:.3g}", "zero-weights"
        )
    return update / weight if weight else 0.0

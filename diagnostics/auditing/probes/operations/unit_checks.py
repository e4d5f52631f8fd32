"""Units at the flat end of their function, for nearly all samples of every repeated step: saturated, dead, cut off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from diagnostics.auditing.tracing.activation_slopes import ActivationCall
from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.rules.rule import LITTLE_USED, WARNING, Family, Rule

SATURATED = Cause(
    "saturated",
    "{kind}() at {place} receives values of size {size:.2g}, where its mean slope is {slope:.2g} of the"
    " steepest slope",
    remedy="Standardise the inputs, or reduce the weights before it, as torch's own initialisation does.",
)
DEAD = Cause(
    "dead-units",
    "relu() at {place} gives zero for nearly all samples and units",
    remedy="Reduce the learning rate or the bias before it; a last layer needs no relu().",
)
CLAMPED = Cause(
    "clamped-away",
    "every number is outside the bounds of {operation}, so no gradient reaches the outputs of the model",
    remedy="Check the clamped values: boxes may be in another format, a difference may have the wrong order.",
)
_FAINT = LITTLE_USED | {"GRAD002", "GRAD005", "REACH002", "MOVE002", "RESPONSE003", "COLLAPSE001"}
UNITS002 = Rule(
    "UNITS002",
    WARNING,
    "Units that hardly respond",
    "operations",
    "Keep the inputs of an activation function near its steep part.",
    source="audit",
    by_operations=True,
    arguments="audit",
    causes=(SATURATED, DEAD, CLAMPED),
    what="In each repeated step, the mean slope of a tanh or a sigmoid inside the model is below 0.03 of the"
    " steepest slope, the mean slope of three layers with tanh is below 0.15, a relu passes less than 1 % of"
    " its values, or a clamp() outside of the model passes no value and no gradient returns to the model's"
    " outputs.",
    why="A flat function passes almost no gradient to the modules before it.",
    example="Years and prices as features that are not standardised; `normal_(weight, std=1)` of a wide layer.",
    false_alarms="A sigmoid gate that is certain; very sparse features.",
    explains=_FAINT,
    upstream=_FAINT,
    downstream=frozenset({"REACH002"}),
    rank=6,
)
FAMILY = Family(131, "Outputs of modules", (UNITS002,))

_FLAT = {"tanh": 0.03, "sigmoid": 0.03, "relu": 0.01}
"""Mean slope below which nearly all units are at a flat end. Inputs of deviation 1 give a tanh 0.6, of deviation 25
0.03; a sigmoid gate that is meant to be certain has more at its start."""
_SEVERAL = {"tanh": 0.15}
"""The same of a function in `_LAYERS` layers, one of which may be sharp on purpose: 0.15 is a deviation of 5."""
_LAYERS = 3  # saturated in turn: their slopes multiply


def check_units(traces: Sequence[OperationTrace], owner: Callable[[str], str]) -> list[Finding]:
    """UNITS002 in the traces of repeated steps: one finding for all layers, named for the first.

    Args:
        owner: Function full name of a module -> the innermost watched module that contains it.
    """
    if not traces:
        return []
    at_loss = {call.kind for trace in traces for call in trace.losses.compared}
    every = [[call for call in trace.layers.activations if call.kind not in at_loss] for trace in traces]
    alone, several = (_find_flat(every, limits, owner) for limits in (_FLAT, _SEVERAL))
    found = several if len(several) >= _LAYERS else alone
    if not found:
        return []
    first, *others = (UNITS002.found_once(module, _cause(call)) for module, call in found.items())
    return [replace(first, consequences=tuple(others))]


def check_clamps(traces: Sequence[OperationTrace]) -> list[Finding]:
    """UNITS002 where a clamp() of each step cuts off all, and only zeros come back to what the model returned."""
    if not traces or not all(trace.clamps.clamped and _has_no_gradient(trace) for trace in traces):
        return []
    return [UNITS002.found_once("", CLAMPED.of(operation=traces[0].clamps.clamped[0]))]


def _has_no_gradient(trace: OperationTrace) -> bool:
    arrived = [each.value for each in trace.outputs if each.value is not None]
    return bool(arrived) and not any(bool(each.any()) for each in arrived)


def _find_flat(
    every: Sequence[Sequence[ActivationCall]], limits: Mapping[str, float], owner: Callable[[str], str]
) -> dict[str, ActivationCall]:
    """The layers whose function is below its limit in every step, each with a call."""
    found: dict[str, ActivationCall] = {}
    for call in every[0]:
        if all(_is_flat([each for each in calls if _alike(each, call)], limits) for calls in every):
            for module in [owner(each) for each in call.sources] or [owner(call.module)]:
                found.setdefault(module, call)
    return found


def _alike(one: ActivationCall, other: ActivationCall) -> bool:
    return (one.kind, one.place, one.module, one.sources) == (
        other.kind,
        other.place,
        other.module,
        other.sources,
    )


def _is_flat(calls: Sequence[ActivationCall], limits: Mapping[str, float]) -> bool:
    return bool(calls) and all(call.size > 0 and call.slope < limits.get(call.kind, 0.0) for call in calls)


def _cause(call: ActivationCall) -> Cause:
    if call.kind == "relu":
        return DEAD.of(place=call.place or call.module)
    return SATURATED.of(kind=call.kind, place=call.place or call.module, size=call.size, slope=call.slope)

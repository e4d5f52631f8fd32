"""Gradients and weights that are not finite, and where the first such number arose."""

from __future__ import annotations

import math
from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.records import Absent, Number, ParameterRecord, StepRecord
from diagnostics.rules.options import Values
from diagnostics.rules.parameter_checks import first_few, grouped
from diagnostics.rules.rule import CRITICAL, UNTRAINED, Family, Observation, Rule, lasting

OVERFLOW_IN_OUTPUT = Cause(
    "overflow-in-output",
    "overflow, division by zero or the logarithm of zero: the output of {module} is the first that is not finite",
)
OVERFLOW_ELSEWHERE = Cause(
    "overflow-elsewhere",
    "overflow, division by zero or the logarithm of zero, after the last watched module or in the backward pass:"
    " all outputs are finite",
)
OVERFLOW_IN_LOSS = Cause(
    "overflow-in-loss",
    "the loss: all outputs are finite, but the gradient that returns to {module}, the last module before the"
    " loss, is not",
)
OVERFLOW_AFTER = Cause(
    "overflow-after",
    "the backward pass of the operations that use the output of {module}: all outputs are finite, but the"
    " gradient that returns to them is not. where() does not help: the branch that is not taken gives 0 times"
    " infinity",
    remedy="Change the input of the operation, not its result: x.where(safe, 1) before sqrt(), log() or a division.",
)
OVERFLOW_INSIDE = Cause(
    "overflow-inside",
    "the backward pass inside {module}: its outputs and the gradients that return to them are finite",
)
DIVERGED = Cause(
    "diverged-rate",
    "divergence: gradients grew to {largest:.1g} before; the learning rate is too high, or nothing bounds the updates",
    remedy="Reduce the learning rate, warm it up, and clip the norm of the gradients.",
)
OVERFLOW_IN_OPERATION = Cause(
    "overflow-in-operation",
    "{phase} pass: {operation} gives the first number that is not finite",
    remedy="Guard that operation: an eps before log(), sqrt() and a division, the largest number subtracted before"
    " exp(). Lower the learning rate if earlier steps were finite.",
)
OVERFLOW = Cause("overflow", "overflow, division by zero or the logarithm of zero, in forward or backward")
EPS_UNDERFLOW = Cause(
    "eps-underflow",
    "the optimiser's eps of {eps:g} is 0 in half precision, so it divides by zero if a squared gradient underflows",
    remedy="Keep the weights in single precision and use autocast, or raise eps to 1e-4.",
)
UPDATE_TOO_LARGE = Cause(
    "update-too-large", "the optimiser: its rate or its state is too large for the type of the weights"
)
WRITTEN_NOT_FINITE = Cause(
    "written-not-finite",
    "an average or a loading writes them outside the optimiser",
    remedy="Find the code that writes them.",
)


def find_not_finite(record: StepRecord, options: Values) -> Iterator[Observation]:
    """REACH003; one observation in the module where the first number arose, if it is known: all others follow."""
    broken = [name for name, each in record.parameters.items() if _was_applied(each)]
    if not broken:
        return
    cause = _cause_not_finite(record)
    hash(cause)  # steps with other facts are judged apart
    owners = {record.parameters[name].owner for name in broken}
    place = dict(cause.facts).get("module", owners.pop() if len(owners) == 1 else "")
    place = "" if cause.code == OVERFLOW_IN_LOSS.code else place
    message = (
        f"model: {len(broken)} of {len(record.parameters)} parameters have a gradient that is not finite"
        f" ({first_few(broken)})"
    )
    yield Observation(str(place), float(len(broken)), message, cause, key=cause)


def _was_applied(parameter: ParameterRecord) -> bool:
    """Whether a gradient that was not finite after the backward pass was still so when it moved the parameter.

    A program may clean it before the update. What no known optimiser applied has left its trace in the weights.
    """
    if parameter.reach.finite is not False or not parameter.changed:
        return False
    place = parameter.place
    if isinstance(place, Absent) or not place.stepped:
        return parameter.broken
    return not isinstance(place.norm, Absent) and place.norm - place.norm != 0.0


_RUNAWAY = 1e8
"""Norm of a gradient that only growth over many steps reaches: a single operation that fails gives NaN at once."""


def _cause_not_finite(record: StepRecord) -> Cause:
    """Where the first number of a step that is not finite arose, as far as the watched modules show."""
    largest = max((each.largest for each in record.parameters.values()), default=0.0)
    if largest > _RUNAWAY:
        return DIVERGED.of(largest=largest)
    for name in record.order:
        stats = record.modules[name].output
        if not isinstance(stats, Absent) and not math.isfinite(stats.rms):
            return OVERFLOW_IN_OUTPUT.of(module=name)
    hit = {name for name, module in record.modules.items() if _is_broken(module.gradient_max)}
    last = next((name for name in reversed(record.order) if name in hit), None)
    readers = [name for name, sources in record.into.items() if last in sources and name != last]
    if last is None:
        broken = [each.owner for each in record.parameters.values() if each.reach.finite is False]
        inside = next((name for name in reversed(record.order) if name in broken), None)
        if inside is None or isinstance(record.modules[inside].gradient_max, Absent):
            return OVERFLOW_ELSEWHERE  # what came back to it is not known
        return OVERFLOW_INSIDE.of(module=inside)
    inside = next((name for name in readers if _has_broken(record, name)), None)
    if inside is not None:
        return OVERFLOW_INSIDE.of(module=inside)
    return OVERFLOW_AFTER.of(module=last) if readers else OVERFLOW_IN_LOSS.of(module=last)


def _is_broken(size: Number) -> bool:
    return not isinstance(size, Absent) and not math.isfinite(size)


def _has_broken(record: StepRecord, module: str) -> bool:
    return any(each.reach.finite is False for each in record.held_by(module))


_HALF = 5e-4  # half precision has an epsilon of 1e-3, bfloat16 of 8e-3, single precision of 1e-7


def _judge_update(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    """Finite gradients, and weights that are not finite after the step."""
    if not parameter.broken or parameter.reach.finite is not True:
        return None
    place = parameter.place
    if isinstance(place, Absent) or not place.stepped:
        return WRITTEN_NOT_FINITE
    underflow = not isinstance(place.eps, Absent) and 0.0 < place.eps < parameter.rounding**2
    half = parameter.rounding > _HALF
    return EPS_UNDERFLOW.of(eps=place.eps) if half and underflow else UPDATE_TOO_LARGE


REACH003 = Rule(
    "REACH003",
    CRITICAL,
    "A gradient that is not finite was applied",
    "parameters",
    "Find the operation with torch.autograd.detect_anomaly(), clip or skip such steps, and resume from a checkpoint.",
    find_not_finite,
    lasting(1, why="one applied step is enough to destroy the weights"),
    causes=(
        OVERFLOW_IN_OUTPUT,
        OVERFLOW_ELSEWHERE,
        OVERFLOW_IN_LOSS,
        OVERFLOW_AFTER,
        OVERFLOW_INSIDE,
        OVERFLOW_IN_OPERATION,
        DIVERGED,
        OVERFLOW,
    ),
    what="A gradient was NaN or infinite, also when the optimiser applied it.",
    why="The weights are now damaged.",
    example="The logarithm of a probability that underflows.",
    false_alarms="None known: steps that a GradScaler skips, and gradients that are cleaned, are not reported.",
    explains=UNTRAINED | {"GRAD001", "MOVE001", "COLLAPSE001", "SPIKE001", "DRIFT001"},
    spreads="forward",
    irreversible=True,
    rank=10,
)
REACH006 = Rule(
    "REACH006",
    CRITICAL,
    "The update makes weights that are not finite",
    "parameters",
    "Reduce the learning rate, or use a type with more range.",
    grouped("become infinite or NaN from finite gradients", _judge_update),
    lasting(1, why="one step is enough to destroy the weights"),
    causes=(EPS_UNDERFLOW, UPDATE_TOO_LARGE, WRITTEN_NOT_FINITE),
    what="The gradient of a parameter is finite, and after the step the parameter is not.",
    why="Every later output is NaN, and looks like a fault of the model.",
    example="Adam on weights in half precision: its eps of 1e-8 is 0 there.",
    false_alarms="None known.",
    explains=UNTRAINED | {"GRAD001", "MOVE001", "COLLAPSE001", "SPIKE001", "DRIFT001", "REACH003"},
    irreversible=True,
    rank=9,
)
FAMILY = Family(51, "Gradients of parameters", (REACH003, REACH006))

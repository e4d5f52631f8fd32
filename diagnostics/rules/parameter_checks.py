"""What the rules look at in the parameters of one step: gradient, movement, and what moved them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from diagnostics.records import Absent, ParameterRecord, StepRecord
from diagnostics.rules import causes
from diagnostics.rules.causes import Cause
from diagnostics.rules.module_checks import Observation
from diagnostics.rules.options import Values

Judge = Callable[[StepRecord, ParameterRecord], Cause | None]
"""The cause of what is wrong with a parameter, None where all is well."""


def _grouped(message: str, judge: Judge) -> Callable[[StepRecord, Values], Iterator[Observation]]:
    """A check that makes one observation per module and cause."""

    def check(record: StepRecord, options: Values) -> Iterator[Observation]:
        groups: dict[tuple[str, Cause], list[str]] = {}
        for name, parameter in record.parameters.items():
            cause = judge(record, parameter)
            if cause is not None:
                groups.setdefault((parameter.owner, cause), []).append(name)
        for (owner, cause), names in groups.items():
            total = sum(parameter.owner == owner for parameter in record.parameters.values())
            listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            text = f"{owner or 'model'}: {len(names)} of {total} parameters {message} ({listed})"
            yield Observation(owner, float(len(names)), text, cause, key=cause)

    return check


def _is_open(record: StepRecord, parameter: ParameterRecord) -> bool:
    """Trainable, and its module is not reported as a whole already."""
    module = record.modules.get(parameter.owner)
    arrived = module is None or module.state == "arrived" or isinstance(module.coverage, Absent)
    return parameter.requires_grad and not parameter.expect_frozen and arrived


def _gradient_none(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    if not _is_open(record, parameter) or parameter.reach.kind != "none":
        return None
    return causes.REPLACED_PARAMETER if parameter.replaced else causes.NOT_IN_LOSS


def _gradient_zero(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    zero = _is_open(record, parameter) and parameter.reach.kind == "zero"
    return causes.DEAD_UNIT if zero else None


def _not_finite(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    if parameter.reach.finite is not False or not parameter.changed:
        return None
    for name in record.order:
        stats = record.modules[name].output
        if not isinstance(stats, Absent) and not math.isfinite(stats.rms):
            return causes.OVERFLOW_IN_OUTPUT.of(module=name)
    return causes.OVERFLOW_ELSEWHERE


def _receives(parameter: ParameterRecord) -> bool:
    """It is to be trained, and received a gradient that is not zero."""
    trainable = parameter.requires_grad and not parameter.expect_frozen
    return trainable and parameter.reach.kind in ("some", "all")


def _stands(parameter: ParameterRecord) -> bool:
    return _receives(parameter) and not parameter.changed


_ROUNDING = 100.0
"""Machine epsilons of a layer's largest gradient under which another one in it is rounding alone."""


def _rounding_alone(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    """A sum that is zero in exact numbers is left with the rounding of its terms, which the layer's others tell."""
    below = _ROUNDING * parameter.rounding * parameter.layer_size
    return causes.NO_EFFECT if _receives(parameter) and parameter.size < below else None


_CLIPPED = 0.1
"""Share of the gradient's norm under which what the optimiser finds was made small on the way to it."""


def _lost(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    place, norm = parameter.place, parameter.reach.norm
    if not _receives(parameter) or isinstance(place, Absent) or isinstance(norm, Absent):
        return None
    if isinstance(place.norm, Absent) or isinstance(place.eps, Absent) or place.gradient != "nonzero":
        return None
    if place.lr == 0.0 or place.norm >= _CLIPPED * norm:
        return None
    share = parameter.reach.nonzero
    live = parameter.numel * (1.0 if isinstance(share, Absent) else share)
    if place.eps and place.norm < place.eps * math.sqrt(live):
        return causes.BELOW_EPS.of(eps=place.eps)
    if not place.eps and parameter.update_norm < parameter.rounding * parameter.weight_norm:
        return causes.BELOW_ROUNDING
    return None


def _did_not_move(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    place = parameter.place
    if not _stands(parameter):
        return None
    if isinstance(place, Absent):
        return causes.IN_NO_GROUP if record.optimizers else None
    if not place.stepped:
        return None  # another rule's
    if place.lr == 0.0:
        return causes.ZERO_RATE
    if _rounding_alone(record, parameter) or _lost(record, parameter):
        return None  # another rule's
    if place.gradient != "nonzero":
        return causes.CLEARED_GRADIENT
    return causes.SET_BACK if parameter.kept == 0.0 else causes.ROUNDED_OR_SET_BACK


def undone_updates(record: StepRecord, options: Values) -> Iterator[Observation]:
    """Weights that are written after the optimiser's step, so that little of it stays."""

    def judge(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
        kept = parameter.kept
        lost = not isinstance(kept, Absent) and kept < options["below"]
        return causes.OVERWRITTEN if lost and _receives(parameter) and parameter.changed else None

    yield from _grouped("keep next to nothing of the optimiser's update", judge)(record, options)


def _optimizer_skipped(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    place = parameter.place
    skipped = _stands(parameter) and not isinstance(place, Absent) and not place.stepped
    return causes.NO_STEP_INSIDE if skipped else None


def _moved_without_gradient(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    if parameter.expect_frozen or not parameter.changed:
        return None
    cause = movement_cause(parameter)
    return None if cause in (causes.TRAINED, causes.TRAINED_ELSEWHERE) else cause


def _moved_frozen(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    return movement_cause(parameter) if parameter.expect_frozen and parameter.changed else None


def movement_cause(parameter: ParameterRecord) -> Cause:
    """What moved a parameter in this step, told from its gradient at the optimiser and its group."""
    place = parameter.place
    if isinstance(place, Absent):
        trained = parameter.reach.kind in ("some", "all")
        return causes.TRAINED_ELSEWHERE if trained else causes.OUTSIDE_OPTIMIZER
    if not place.stepped or place.gradient == "none":
        return causes.OUTSIDE_OPTIMIZER
    if place.gradient == "zero":
        decay = place.weight_decay
        if isinstance(decay, Absent) or decay > 0.0:
            return causes.WEIGHT_DECAY.of(group=place.group)
        return causes.OPTIMIZER_STATE
    if parameter.stale:
        return causes.STALE_GRADIENT if parameter.requires_grad else causes.STALE_GRADIENT_FROZEN
    return causes.TRAINED


def _not_cleared(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    place = parameter.place
    updated = not isinstance(place, Absent) and place.stepped and parameter.reach.kind in ("some", "all")
    # with gradient accumulation over monitored steps the optimiser does not step in each of them
    if record.gap > 1 or not updated or parameter.leftover != "nonzero":
        return None
    return causes.ZERO_GRAD_MISSING


def shared(record: StepRecord, options: Values) -> Iterator[Observation]:
    """Said of the module that is called first, whichever of them the model lists first."""
    place = {name: number for number, name in enumerate(record.order)}
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, parameter in record.parameters.items():
        if parameter.shared:
            holders = sorted(
                {parameter.owner, *parameter.shared}, key=lambda each: place.get(each, len(place))
            )
            apart = [each for each in holders if not holders[0].startswith(f"{each}.")]
            groups.setdefault(tuple(apart), []).append(name)
    for (first, *others), names in groups.items():
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        text = f"{first}: {len(names)} parameters belong to another watched module too ({listed})"
        cause = causes.SHARED_TENSOR.of(modules=", ".join(others))
        yield Observation(first, float(len(names)), text, cause, key=cause)


without_gradient = _grouped("have no gradient", _gradient_none)
with_zero_gradient = _grouped("receive a gradient that is all zero", _gradient_zero)
with_broken_gradient = _grouped("have a gradient that is not finite", _not_finite)
still = _grouped("receive gradient and do not move", _did_not_move)
never_stepped = _grouped("receive gradient and do not move", _optimizer_skipped)
of_rounding_size = _grouped("receive a gradient that is rounding alone", _rounding_alone)
next_to_still = _grouped("move by next to nothing", _lost)
moved_without_gradient = _grouped("move without a gradient of this step", _moved_without_gradient)

_frozen_parameters = _grouped("are declared frozen and move", _moved_frozen)


def moved_frozen(record: StepRecord, options: Values) -> Iterator[Observation]:
    yield from _frozen_parameters(record, options)
    groups: dict[tuple[str, bool], list[str]] = {}
    for buffer in record.moved_buffers:
        groups.setdefault((buffer.owner, buffer.training), []).append(buffer.name)
    for (owner, training), names in groups.items():
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        text = f"{owner or 'model'}: {len(names)} buffers are declared frozen and move ({listed})"
        cause = causes.RUNNING_STATISTICS if training else causes.WRITTEN_BUFFER
        yield Observation(owner, float(len(names)), text, cause, key=cause)


not_cleared = _grouped("have their gradient added to that of earlier steps", _not_cleared)

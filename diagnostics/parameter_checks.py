"""What the rules look at in the parameters of one step: gradient, movement, and what moved them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from diagnostics.checks import Observation
from diagnostics.options import Values
from diagnostics.records import Absent, ParameterRecord, StepRecord

Judge = Callable[[StepRecord, ParameterRecord], str]
"""The cause of what is wrong with a parameter, "" where all is well."""


def _grouped(message: str, judge: Judge) -> Callable[[StepRecord, Values], Iterator[Observation]]:
    """A check that makes one observation per module and cause."""

    def check(record: StepRecord, options: Values) -> Iterator[Observation]:
        groups: dict[tuple[str, str], list[str]] = {}
        for name, parameter in record.parameters.items():
            cause = judge(record, parameter)
            if cause:
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


def _gradient_none(record: StepRecord, parameter: ParameterRecord) -> str:
    if not _is_open(record, parameter) or parameter.reach.kind != "none":
        return ""
    if parameter.replaced:
        return "the model holds another tensor in its place: it was replaced after the monitor was made"
    return "it takes no part in the loss, or its result is detached inside the module"


def _gradient_zero(record: StepRecord, parameter: ParameterRecord) -> str:
    if not _is_open(record, parameter) or parameter.reach.kind != "zero":
        return ""
    return "a dead unit, a mask, or a neighbouring weight that stays at zero"


def _not_finite(record: StepRecord, parameter: ParameterRecord) -> str:
    if parameter.reach.finite is not False or not parameter.changed:
        return ""
    return f"overflow, a division by zero or the logarithm of zero: {_first_broken(record)}"


def _first_broken(record: StepRecord) -> str:
    for name in record.order:
        stats = record.modules[name].output
        if not isinstance(stats, Absent) and not math.isfinite(stats.rms):
            return f"the output of {name} is the first that is not finite"
    return (
        "no output of a watched module shows it, so it arises behind the last of them or in the backward pass"
    )


def _receives(parameter: ParameterRecord) -> bool:
    """It is to be trained, and received a gradient that is not zero."""
    trainable = parameter.requires_grad and not parameter.expect_frozen
    return trainable and parameter.reach.kind in ("some", "all")


def _stands(parameter: ParameterRecord) -> bool:
    return _receives(parameter) and not parameter.changed


_ROUNDING = 100.0
"""Machine epsilons of a layer's largest gradient under which another one in it is rounding alone."""


def _rounding_alone(record: StepRecord, parameter: ParameterRecord) -> str:
    """A sum that is zero in exact numbers is left with the rounding of its terms, which the layer's others tell."""
    below = _ROUNDING * parameter.rounding * parameter.layer_size
    if not _receives(parameter) or parameter.size >= below:
        return ""
    return "it cannot change the loss: a bias before a normalisation, or of the keys of an attention"


_CLIPPED = 0.1
"""Share of the gradient's norm under which what the optimiser finds was made small on the way to it."""


def _lost(record: StepRecord, parameter: ParameterRecord) -> str:
    place, norm = parameter.place, parameter.reach.norm
    if not _receives(parameter) or isinstance(place, Absent) or isinstance(norm, Absent):
        return ""
    if isinstance(place.norm, Absent) or isinstance(place.eps, Absent) or place.gradient != "nonzero":
        return ""
    if place.lr == 0.0 or place.norm >= _CLIPPED * norm:
        return ""
    share = parameter.reach.nonzero
    live = parameter.numel * (1.0 if isinstance(share, Absent) else share)
    if place.eps and place.norm < place.eps * math.sqrt(live):
        return f"{_SHRUNK}: what is left of it is below the optimiser's eps of {place.eps:g}"
    if not place.eps and parameter.update_norm < parameter.rounding * parameter.weight_norm:
        return f"{_SHRUNK}: what is left of it moves the weights by less than they are rounded"
    return ""


_SHRUNK = "clipping, or a division of the gradient, between the backward pass and the optimiser's step"


def _did_not_move(record: StepRecord, parameter: ParameterRecord) -> str:
    place = parameter.place
    if not _stands(parameter):
        return ""
    if isinstance(place, Absent):
        return "it is in no group of the optimisers" if record.optimizers else ""
    if not place.stepped:
        return ""  # another rule's
    if place.lr == 0.0:
        return "the learning rate of its group is 0"
    if _rounding_alone(record, parameter) or _lost(record, parameter):
        return ""  # another rule's
    if place.gradient != "nonzero":
        return "its gradient was cleared between the backward pass and the optimiser's step"
    if parameter.kept == 0.0:
        return "its weights were set back after the optimiser's step"
    return (
        "the optimiser stepped without changing a bit of it: the update is below the rounding of its type,"
        " or the weights were set back"
    )


def undone_updates(record: StepRecord, options: Values) -> Iterator[Observation]:
    """Weights that are written after the optimiser's step, so that little of it stays."""

    def judge(record: StepRecord, parameter: ParameterRecord) -> str:
        kept = parameter.kept
        lost = not isinstance(kept, Absent) and kept < options["below"]
        if not lost or not _receives(parameter) or not parameter.changed:
            return ""
        return "weights are written after the optimiser's step, with an average (EMA) or an older copy"

    yield from _grouped("keep next to nothing of the optimiser's update", judge)(record, options)


def _optimizer_skipped(record: StepRecord, parameter: ParameterRecord) -> str:
    place = parameter.place
    skipped = _stands(parameter) and not isinstance(place, Absent) and not place.stepped
    return "its optimiser never stepped inside the monitored step" if skipped else ""


def _moved_without_gradient(record: StepRecord, parameter: ParameterRecord) -> str:
    if parameter.expect_frozen or not parameter.changed:
        return ""
    cause = movement_cause(parameter)
    return "" if cause.startswith("training") else cause


def _moved_frozen(record: StepRecord, parameter: ParameterRecord) -> str:
    return movement_cause(parameter) if parameter.expect_frozen and parameter.changed else ""


def movement_cause(parameter: ParameterRecord) -> str:
    """What moved a parameter in this step, told from its gradient at the optimiser and its group."""
    place = parameter.place
    outside = (
        "outside the optimiser: weights assigned or copied in place (EMA, loading), or another optimiser"
    )
    if isinstance(place, Absent):
        trained = parameter.reach.kind in ("some", "all")
        return "training: it receives gradient" if trained else outside
    if not place.stepped or place.gradient == "none":
        return outside
    if place.gradient == "zero":
        decay = place.weight_decay
        if isinstance(decay, Absent) or decay > 0.0:
            return f"weight decay: its gradient is zero, and group {place.group} decays all of its weights"
        return "optimiser state: its gradient is zero, and momentum of earlier steps moves it on"
    if parameter.stale:
        return (
            "stale gradients: .grad holds a gradient of an earlier step, and the optimiser still applies it"
            + ("" if parameter.requires_grad else " (requires_grad is False)")
        )
    return "training: it receives gradient and the optimiser applies it"


def _not_cleared(record: StepRecord, parameter: ParameterRecord) -> str:
    place = parameter.place
    updated = not isinstance(place, Absent) and place.stepped and parameter.reach.kind in ("some", "all")
    # with gradient accumulation over monitored steps the optimiser does not step in each of them
    if record.gap > 1 or not updated or parameter.leftover != "nonzero":
        return ""
    return "zero_grad() is not called between updates: each applies the sum of all gradients so far"


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
        cause = f"the same tensor stands in {', '.join(others)}"
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
        cause = _BUFFERS[training]
        yield Observation(owner, float(len(names)), text, cause, key=cause)


_BUFFERS = {
    True: "running statistics: its layer is in training mode and takes in every batch, whatever requires_grad says",
    False: "written in its forward, or copied into (EMA, loading)",
}

not_cleared = _grouped("have their gradient added to that of earlier steps", _not_cleared)

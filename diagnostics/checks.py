"""What the rules look at: each check reads the record of one step and says what it observes in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from diagnostics.findings import Severity
from diagnostics.records import Absent, ModuleRecord, ParameterRecord, StepRecord


@dataclass(frozen=True)
class Observation:
    """What a rule saw in one step. `{value}` in the message becomes the mean over the steps."""

    module: str
    value: float
    message: str
    cause: str
    key: str = ""  # observations of one module with different keys are different findings
    holds: bool = True  # False: the step is healthy and counts in the mean alone
    severity: Severity | None = None  # in place of the rule's


# Half the batch without gradient is no accident of masks or saturated samples. Above it the same is
# worth a warning if it never once reaches 1 in ten steps.
COVERAGE_CRITICAL = 0.5
WASTE = 0.5
# A random standard encoder at paper size has 0.1; 1 % noise on a constant output has 1e-4.
COLLAPSED_SHARE = 1e-3
_COLLAPSE_ELEMENTS = 16  # fewer are the logits of a head, often constant at the start on purpose
_COLLAPSE_ROWS = 8


def _learners(record: StepRecord) -> Iterator[tuple[str, ModuleRecord]]:
    return ((name, module) for name, module in record.modules.items() if module.params_trainable)


def low_coverage(record: StepRecord) -> Iterator[Observation]:
    for name, module in _learners(record):
        if not isinstance(module.coverage, Absent):
            seen = _coverage_observation(record, name, module, module.coverage)
            yield replace(seen, holds=module.coverage < COVERAGE_CRITICAL)


def partial_coverage(record: StepRecord) -> Iterator[Observation]:
    for name, module in _learners(record):
        if not isinstance(module.coverage, Absent) and COVERAGE_CRITICAL <= module.coverage < 1.0:
            yield _coverage_observation(record, name, module, module.coverage)


def _coverage_observation(
    record: StepRecord, name: str, module: ModuleRecord, coverage: float
) -> Observation:
    waste = "unknown" if isinstance(module.waste, Absent) else f"{module.waste:.2f}"
    others = [other.coverage for key, other in record.modules.items() if key != name]
    processed = 0.0 if isinstance(module.waste, Absent) else coverage / max(1.0 - module.waste, 1e-12)
    if others and all(other == coverage for other in others):
        cause = (
            "all watched modules have this coverage: the loss itself has no gradient for the other samples"
        )
    elif 0.0 < processed < 0.999:
        cause = (
            "it computes only part of the batch in a step; the other samples use results of earlier steps"
            " (a carry or a cache), through which no gradient comes back"
        )
    else:
        cause = (
            "between its output and the loss the other samples are cut: detach(), where() with a detached"
            " branch, or a cache of earlier outputs"
        )
    message = (
        f"{name}: {{value}} of the {record.samples} samples in the loss send gradient through it"
        f" (last step: {coverage:.3g}, waste {waste})"
    )
    return Observation(name, coverage, message, cause)


def unknown_coverage(record: StepRecord) -> Iterator[Observation]:
    for name, module in _learners(record):
        if isinstance(module.coverage, Absent):
            yield Observation(name, 1.0, f"{name}: coverage is not known", module.coverage.reason)


def wasted_rows(record: StepRecord) -> Iterator[Observation]:
    for name, module in _learners(record):
        if module.state == "arrived" and not isinstance(module.waste, Absent) and module.waste >= WASTE:
            cause = "the outputs of these rows are replaced or detached before they reach the loss"
            message = f"{name}: {{value}} of the samples that it computed got no gradient back"
            yield Observation(name, module.waste, message, cause)


_NO_GRADIENT = {
    "no_grad": (
        "all {calls} calls of a step ran with gradients disabled",
        "no_grad: it runs only inside torch.no_grad() or inference_mode(), before gradients are enabled",
    ),
    "detached": (
        "called {calls} times with grad enabled, its outputs never reach the loss",
        "detached: .item(), .data, detach() or a copy through Python or numpy after it, or an unused output",
    ),
    "cut inside": (
        "called {calls} times with grad enabled, and no output of it carries gradient",
        "cut inside: .item(), argmax, detach() or no_grad() inside its own forward",
    ),
}


def no_gradient(record: StepRecord) -> Iterator[Observation]:
    for name, module in _learners(record):
        if module.state in _NO_GRADIENT and not isinstance(module.coverage, Absent):
            said, cause = _NO_GRADIENT[module.state]
            message = f"{name}: no gradient; {said.format(calls=module.calls_total)}"
            yield Observation(name, 0.0, message, cause, key=module.state)


def zero_gradient(record: StepRecord) -> Iterator[Observation]:
    for name, module in _learners(record):
        if module.state == "zero":
            cause = "its output is multiplied by zero on the way to the loss: a mask, gate or weight"
            yield Observation(name, 0.0, f"{name}: a gradient arrives and every element of it is zero", cause)


def frozen_undeclared(record: StepRecord) -> Iterator[Observation]:
    declared = {parameter.owner for parameter in record.parameters.values() if parameter.expect_frozen}
    for name, module in record.modules.items():
        if module.params_total and not module.params_trainable and name not in declared:
            message = f"{name}: none of its {module.params_total} parameters is trainable"
            yield Observation(name, 0.0, message, "requires_grad is False for all of its parameters")


def some_calls(record: StepRecord) -> Iterator[Observation]:
    """Worse than a note unless all calls without gradient ran with gradients disabled, and that is declared."""
    for name, module in _learners(record):
        total, reached = module.calls_total, module.calls_with_gradient
        repeated = any(call.recomputed or call.unknown for call in module.calls)
        low = (
            not isinstance(module.coverage, Absent) and module.coverage < COVERAGE_CRITICAL
        )  # COV001 says it
        if module.state != "arrived" or reached >= total or repeated or low:
            continue
        disabled = total - module.calls_grad_enabled
        cut = total - reached - disabled
        declared = name in record.partial and not cut
        message = (
            f"{name}: {reached} of {total} calls received gradient;"
            f" {disabled} ran with gradients disabled, {cut} were cut later"
        )
        yield Observation(
            name,
            float(reached),
            message,
            _CALLS[disabled > 0, cut > 0] + (", as declared" if declared else ""),
            key="declared" if declared else "",
            severity=Severity.NOTE if declared else None,
        )


_CALLS = {
    (True, False): "the other calls run with gradients disabled",
    (False, True): "what the other calls return is cut on the way to the loss, or not used",
    (True, True): "other calls run with gradients disabled, and what others return is cut or not used",
}


def not_called(record: StepRecord) -> Iterator[Observation]:
    for name, module in _learners(record):
        if module.state == "not called" and not isinstance(module.coverage, Absent):
            cause = "it is not used, or its results of an earlier step are cached"
            yield Observation(name, 0.0, f"{name}: its forward never ran", cause)


def grouped(
    record: StepRecord, message: str, judge: Callable[[StepRecord, ParameterRecord], str]
) -> Iterator[Observation]:
    """One observation per module and cause; `judge` gives the cause, "" where all is well."""
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


def _is_open(record: StepRecord, parameter: ParameterRecord) -> bool:
    """Trainable, and its module is not reported as a whole already."""
    module = record.modules.get(parameter.owner)
    arrived = module is None or module.state == "arrived" or isinstance(module.coverage, Absent)
    return parameter.requires_grad and not parameter.expect_frozen and arrived


def gradient_none(record: StepRecord, parameter: ParameterRecord) -> str:
    if not _is_open(record, parameter) or parameter.reach.kind != "none":
        return ""
    return "it takes no part in the loss, or its result is detached inside the module"


def gradient_zero(record: StepRecord, parameter: ParameterRecord) -> str:
    if not _is_open(record, parameter) or parameter.reach.kind != "zero":
        return ""
    return "a dead unit, a mask, or a neighbouring weight that stays at zero"


def not_finite(record: StepRecord, parameter: ParameterRecord) -> str:
    if (
        parameter.reach.finite is not False
        or isinstance(parameter.reach.finite, Absent)
        or not parameter.changed
    ):
        return ""
    return "overflow, a division by zero or the logarithm of zero in forward or backward"


def _still(parameter: ParameterRecord) -> bool:
    """It received a gradient that is not zero, and did not move."""
    trainable = parameter.requires_grad and not parameter.expect_frozen
    return trainable and parameter.reach.kind in ("some", "all") and not parameter.changed


def did_not_move(record: StepRecord, parameter: ParameterRecord) -> str:
    place = parameter.place
    if not _still(parameter):
        return ""
    if isinstance(place, Absent):
        return "it is in no group of the optimisers" if record.optimizers else ""
    if not place.stepped:
        return ""  # another rule's
    if place.lr == 0.0:
        return "the learning rate of its group is 0"
    if place.gradient != "nonzero":
        return "its gradient was cleared between the backward pass and the optimiser's step"
    return (
        "the optimiser stepped without changing a bit of it: the update is below the rounding of its type,"
        " or the weights were set back"
    )


def optimizer_skipped(record: StepRecord, parameter: ParameterRecord) -> str:
    place = parameter.place
    skipped = _still(parameter) and not isinstance(place, Absent) and not place.stepped
    return "its optimiser never stepped inside the monitored step" if skipped else ""


def moved_without_gradient(record: StepRecord, parameter: ParameterRecord) -> str:
    if parameter.expect_frozen or not parameter.changed:
        return ""
    cause = movement_cause(parameter)
    return "" if cause.startswith("training") else cause


def moved_frozen(record: StepRecord, parameter: ParameterRecord) -> str:
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


def collapse(record: StepRecord) -> Iterator[Observation]:
    for name in record.order:
        stats = record.modules[name].output
        if isinstance(stats, Absent) or stats.elements < _COLLAPSE_ELEMENTS or stats.rows < _COLLAPSE_ROWS:
            continue
        if not isinstance(stats.share, Absent) and stats.share < COLLAPSED_SHARE:
            message = (
                f"{name}: its output is nearly the same for all samples, {{value}} of its mean square differs"
            )
            cause = (
                "the input is swamped by a constant, a saturated unit, or a loss that rewards equal outputs"
            )
            yield Observation(name, stats.share, message, cause)
            return  # modules behind it inherit the collapse

"""The rules: each looks at one step and reports what it observes; `tally` keeps what persists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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


@dataclass(frozen=True)
class Rule:
    """A rule with its stable id, its threshold and what to do about it.

    Attributes:
        min_steps: Recorded steps since the first one before it becomes a finding.
        share: Share of these steps on which it must hold; 1 means on every one.
        needs_optimizer: It cannot run unless the monitor was given the optimisers.
    """

    id: str
    severity: Severity
    title: str
    metric: str
    threshold: float | None
    min_steps: int
    remedy: str
    check: Callable[[StepRecord], Iterable[Observation]]
    needs_optimizer: bool = False
    share: float = 1.0


# Half the batch without gradient is no accident of masks or saturated samples. Above it the same is
# worth a warning if it never once reaches 1 in ten steps.
_COVERAGE_CRITICAL = 0.5
_WASTE = 0.5
# A random standard encoder at paper size has 0.1; 1 % noise on a constant output has 1e-4.
_COLLAPSED_SHARE = 1e-3
_COLLAPSE_ELEMENTS = 16  # fewer are the logits of a head, often constant at the start on purpose
_COLLAPSE_ROWS = 8


def _learners(record: StepRecord) -> Iterator[tuple[str, ModuleRecord]]:
    return ((name, module) for name, module in record.modules.items() if module.params_trainable)


def _low_coverage(record: StepRecord) -> Iterator[Observation]:
    for name, module in _learners(record):
        if not isinstance(module.coverage, Absent):
            seen = _coverage_observation(record, name, module, module.coverage)
            yield replace(seen, holds=module.coverage < _COVERAGE_CRITICAL)


def _partial_coverage(record: StepRecord) -> Iterator[Observation]:
    for name, module in _learners(record):
        if not isinstance(module.coverage, Absent) and _COVERAGE_CRITICAL <= module.coverage < 1.0:
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


def _unknown_coverage(record: StepRecord) -> Iterator[Observation]:
    for name, module in _learners(record):
        if isinstance(module.coverage, Absent):
            yield Observation(name, 1.0, f"{name}: coverage is not known", module.coverage.reason)


def _wasted_rows(record: StepRecord) -> Iterator[Observation]:
    for name, module in _learners(record):
        if module.state == "arrived" and not isinstance(module.waste, Absent) and module.waste >= _WASTE:
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


def _no_gradient(record: StepRecord) -> Iterator[Observation]:
    for name, module in _learners(record):
        if module.state in _NO_GRADIENT and not isinstance(module.coverage, Absent):
            said, cause = _NO_GRADIENT[module.state]
            message = f"{name}: no gradient; {said.format(calls=module.calls_total)}"
            yield Observation(name, 0.0, message, cause, key=module.state)


def _zero_gradient(record: StepRecord) -> Iterator[Observation]:
    for name, module in _learners(record):
        if module.state == "zero":
            cause = "its output is multiplied by zero on the way to the loss: a mask, gate or weight"
            yield Observation(name, 0.0, f"{name}: a gradient arrives and every element of it is zero", cause)


def _frozen_undeclared(record: StepRecord) -> Iterator[Observation]:
    declared = {parameter.owner for parameter in record.parameters.values() if parameter.expect_frozen}
    for name, module in record.modules.items():
        if module.params_total and not module.params_trainable and name not in declared:
            message = f"{name}: none of its {module.params_total} parameters is trainable"
            yield Observation(name, 0.0, message, "requires_grad is False for all of its parameters")


def _some_calls(record: StepRecord) -> Iterator[Observation]:
    for name, module in _learners(record):
        total, reached = module.calls_total, module.calls_with_gradient
        if (
            module.state == "arrived"
            and reached < total
            and not any(call.recomputed for call in module.calls)
        ):
            disabled = total - module.calls_grad_enabled
            cause = (
                f"{disabled} of {total} calls ran with gradients disabled,"
                f" {total - reached - disabled} were cut later"
            )
            yield Observation(
                name, float(reached), f"{name}: {reached} of {total} calls received gradient", cause
            )


def _not_called(record: StepRecord) -> Iterator[Observation]:
    for name, module in _learners(record):
        if module.state == "not called" and not isinstance(module.coverage, Absent):
            cause = "it is not used, or its results of an earlier step are cached"
            yield Observation(name, 0.0, f"{name}: its forward never ran", cause)


def _grouped(
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


def _gradient_none(record: StepRecord, parameter: ParameterRecord) -> str:
    if not _is_open(record, parameter) or parameter.reach.kind != "none":
        return ""
    return "it takes no part in the loss, or its result is detached inside the module"


def _gradient_zero(record: StepRecord, parameter: ParameterRecord) -> str:
    if not _is_open(record, parameter) or parameter.reach.kind != "zero":
        return ""
    return "a dead unit, a mask, or a neighbouring weight that stays at zero"


def _not_finite(record: StepRecord, parameter: ParameterRecord) -> str:
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


def _did_not_move(record: StepRecord, parameter: ParameterRecord) -> str:
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


def _optimizer_skipped(record: StepRecord, parameter: ParameterRecord) -> str:
    place = parameter.place
    skipped = _still(parameter) and not isinstance(place, Absent) and not place.stepped
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


def _collapse(record: StepRecord) -> Iterator[Observation]:
    for name in record.order:
        stats = record.modules[name].output
        if isinstance(stats, Absent) or stats.elements < _COLLAPSE_ELEMENTS or stats.rows < _COLLAPSE_ROWS:
            continue
        if not isinstance(stats.share, Absent) and stats.share < _COLLAPSED_SHARE:
            message = (
                f"{name}: its output is nearly the same for all samples, {{value}} of its mean square differs"
            )
            cause = (
                "the input is swamped by a constant, a saturated unit, or a loss that rewards equal outputs"
            )
            yield Observation(name, stats.share, message, cause)
            return  # modules behind it inherit the collapse


CRITICAL, WARNING, NOTE = Severity.CRITICAL, Severity.WARNING, Severity.NOTE

RULES: tuple[Rule, ...] = (
    Rule("COV001", CRITICAL, "Few samples train the module", "coverage", _COVERAGE_CRITICAL, 5,
         "Let the samples in the loss pass through it with gradient in the step that supervises them.",
         _low_coverage,
         # A cache in lockstep with its carry trains on every sample now and then, and on none between.
         share=0.6),
    Rule("COV002", WARNING, "Some samples never train the module", "coverage", 1.0, 10,
         "If these samples should train it, look for masks and detach() behind it.", _partial_coverage),
    Rule("COV003", NOTE, "Coverage is not known", "steps", None, 5,
         "Say to which samples its rows belong: Monitor(rows={...}) or `with monitor.rows(index)`.",
         _unknown_coverage),
    Rule("WASTE001", WARNING, "Rows computed for nothing", "waste", _WASTE, 5,
         "Compute only the rows that are used, or use the rows that are computed.", _wasted_rows),
    Rule("GRAD001", CRITICAL, "No gradient reaches the module", "coverage", 0.0, 5,
         "Run it with gradients enabled and keep its outputs tensors up to the loss; if it is to stay as it"
         " is, set requires_grad to False.", _no_gradient),
    Rule("GRAD002", WARNING, "Only zero gradient reaches the module", "coverage", 0.0, 5,
         "Find the factor behind it that is zero.", _zero_gradient),
    Rule("GRAD003", NOTE, "The module is frozen", "coverage", None, 5,
         "If it is meant to be frozen, declare it with expect_frozen, and it is watched for movement.",
         _frozen_undeclared),
    Rule("CALL001", NOTE, "Only some calls receive gradient", "calls with gradient", None, 5,
         "Nothing, if the earlier calls run without gradient on purpose.", _some_calls),
    Rule("CALL002", WARNING, "The module is never called", "calls", None, 5,
         "Remove it, or call it; if it is called through other methods, watch the modules inside it.",
         _not_called),
    Rule("REACH001", WARNING, "Trainable parameters without gradient", "parameters", None, 5,
         "Use them in the loss, or set requires_grad to False.",
         lambda record: _grouped(record, "have no gradient", _gradient_none)),
    Rule("REACH002", WARNING, "Parameters with zero gradient", "parameters", None, 5,
         "Check initialisation and activations around them; a zero that ends after the first steps is fine.",
         lambda record: _grouped(record, "receive a gradient that is all zero", _gradient_zero)),
    Rule("REACH003", CRITICAL, "A gradient is not finite, and was applied", "parameters", None, 1,
         "Find the operation with torch.autograd.detect_anomaly(); clip or skip such steps.",
         lambda record: _grouped(record, "have a gradient that is not finite", _not_finite)),
    Rule("MOVE001", CRITICAL, "Gradient without movement", "parameters", None, 5,
         "Put the parameters in a group of the optimiser with a learning rate above 0.",
         lambda record: _grouped(record, "receive gradient and do not move", _did_not_move), True),
    Rule("MOVE002", WARNING, "Movement without gradient", "parameters", None, 5,
         "Take them out of the optimiser, or set .grad to None, if they are not to move.",
         lambda record: _grouped(record, "move without a gradient of this step", _moved_without_gradient)),
    # micro-steps of gradient accumulation do not step either: wait for more than any usual number of them
    Rule("MOVE003", CRITICAL, "The optimiser never steps", "parameters", None, 20,
         "Call optimizer.step() inside the monitored step, on the optimiser given to the monitor.",
         lambda record: _grouped(record, "receive gradient and do not move", _optimizer_skipped), True),
    Rule("FROZEN001", CRITICAL, "Frozen parameters move", "parameters", 0.0, 1,
         "Set requires_grad to False, set .grad to None and take them out of every optimiser.",
         lambda record: _grouped(record, "are declared frozen and move", _moved_frozen)),
    Rule("COLLAPSE001", CRITICAL, "The output does not depend on the sample", "share", _COLLAPSED_SHARE, 5,
         "Compare with its random start; check the input, and the scale of the last bias and norm.",
         _collapse),
)  # fmt: skip


def explain(rule: str) -> str:
    """What a rule looks for, when it speaks, and what to do, as markdown.

    Raises:
        KeyError: There is no rule with this id.
    """
    found = next((known for known in RULES if known.id == rule), None)
    if found is None:
        raise KeyError(f"no rule {rule!r}; there are {', '.join(known.id for known in RULES)}")
    bound = "" if found.threshold is None else f", threshold {found.threshold:g}"
    return (
        f"**{found.id}** ({found.severity.label}): {found.title}.\n\n"
        f"Measures {found.metric}{bound}; it speaks after {found.min_steps} recorded steps in a row.\n\n"
        f"{found.remedy}\n"
    )

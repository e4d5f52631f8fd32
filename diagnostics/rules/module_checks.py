"""What the rules look at: each check reads the record of one step and says what it observes in its modules.

A check takes the record and the values of its rule's options. It says all that it sees: what another
finding explains is folded under that one later (`diagnostics.rules.folding`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace

from diagnostics.findings import Severity
from diagnostics.records import Absent, ModuleRecord, StepRecord
from diagnostics.rules import causes
from diagnostics.rules.causes import Cause
from diagnostics.rules.options import Values


@dataclass(frozen=True)
class Observation:
    """What a rule saw in one step. `{value}` in the message becomes the mean over the steps."""

    module: str
    value: float
    message: str
    cause: Cause
    key: Hashable = ""  # observations of one module with different keys are different findings
    holds: bool = True  # False: the step is healthy and counts in the mean alone
    severity: Severity | None = None  # in place of the rule's


def _learners(record: StepRecord) -> Iterator[tuple[str, ModuleRecord]]:
    return ((name, module) for name, module in record.modules.items() if module.params_trainable)


def low_coverage(record: StepRecord, options: Values) -> Iterator[Observation]:
    for name, module in _learners(record):
        if not isinstance(module.coverage, Absent):
            seen = _coverage_observation(record, name, module, module.coverage)
            yield replace(seen, holds=module.coverage < options["below"])


def partial_coverage(record: StepRecord, options: Values) -> Iterator[Observation]:
    for name, module in _learners(record):
        if not isinstance(module.coverage, Absent) and module.coverage < options["below"]:
            yield _coverage_observation(record, name, module, module.coverage)


def _coverage_observation(
    record: StepRecord, name: str, module: ModuleRecord, coverage: float
) -> Observation:
    waste = "unknown" if isinstance(module.waste, Absent) else f"{module.waste:.2f}"
    others = [other.coverage for key, other in record.modules.items() if key != name]
    processed = 0.0 if isinstance(module.waste, Absent) else coverage / max(1.0 - module.waste, 1e-12)
    if others and all(other == coverage for other in others):
        cause = causes.LOSS_WITHOUT_GRADIENT
    elif 0.0 < processed < 0.999:
        cause = causes.PART_OF_BATCH
    else:
        cause = causes.SAMPLES_CUT
    message = (
        f"{name}: {{value}} of the {record.samples} samples in the loss send gradient through it"
        f" (last step: {coverage:.3g}, waste {waste})"
    )
    return Observation(name, coverage, message, cause)


def unknown_coverage(record: StepRecord, options: Values) -> Iterator[Observation]:
    for name, module in _learners(record):
        if isinstance(module.coverage, Absent):
            yield Observation(name, 1.0, f"{name}: coverage is not known", module.coverage.cause)


def wasted_rows(record: StepRecord, options: Values) -> Iterator[Observation]:
    for name, module in _learners(record):
        if (
            module.state == "arrived"
            and not isinstance(module.waste, Absent)
            and module.waste >= options["above"]
        ):
            message = f"{name}: {{value}} of the samples that it computed got no gradient back"
            yield Observation(name, module.waste, message, causes.ROWS_DROPPED)


_NO_GRADIENT = {
    "no_grad": ("all {calls} calls of a step ran with gradients disabled", causes.NO_GRAD),
    "detached": ("called {calls} times with grad enabled, its outputs never reach the loss", causes.DETACHED),
    "cut inside": (
        "called {calls} times with grad enabled, and no output of it carries gradient",
        causes.CUT_INSIDE,
    ),
}


def no_gradient(record: StepRecord, options: Values) -> Iterator[Observation]:
    for name, module in _learners(record):
        if module.state in _NO_GRADIENT and not isinstance(module.coverage, Absent):
            said, cause = _NO_GRADIENT[module.state]
            message = f"{name}: no gradient; {said.format(calls=module.calls_total)}"
            yield Observation(name, 0.0, message, cause, key=cause)


def zero_gradient(record: StepRecord, options: Values) -> Iterator[Observation]:
    for name, module in _learners(record):
        if module.state == "zero":
            message = f"{name}: a gradient arrives and every element of it is zero"
            yield Observation(name, 0.0, message, causes.ZERO_FACTOR)


def faint_gradient(record: StepRecord, options: Values) -> Iterator[Observation]:
    leverages = {
        name: module.leverage
        for name, module in _learners(record)
        if module.state == "arrived" and 0.0 < module.leverage < math.inf
    }
    largest = max(leverages.values(), default=0.0)
    for name, leverage in leverages.items():
        if leverage < options["below"] * largest:
            message = f"{name}: the loss answers to its weights {{value}} times as much as to those of another module"
            yield Observation(name, leverage / largest, message, causes.TINY_FACTOR)


def frozen_undeclared(record: StepRecord, options: Values) -> Iterator[Observation]:
    declared = {parameter.owner for parameter in record.parameters.values() if parameter.expect_frozen}
    for name, module in record.modules.items():
        if module.params_total and not module.params_trainable and name not in declared:
            message = f"{name}: none of its {module.params_total} parameters is trainable"
            yield Observation(name, 0.0, message, causes.REQUIRES_GRAD_FALSE)


def some_calls(record: StepRecord, options: Values) -> Iterator[Observation]:
    """Worse than a note unless all calls without gradient ran with gradients disabled, and that is declared."""
    for name, module in _learners(record):
        total, reached = module.calls_total, module.calls_with_gradient
        repeated = any(call.recomputed or call.unknown for call in module.calls)
        if module.state != "arrived" or reached >= total or repeated:
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
            causes.CALLS_DECLARED if declared else _CALLS[disabled > 0, cut > 0],
            key=declared,
            severity=Severity.NOTE if declared else None,
        )


_CALLS = {
    (True, False): causes.CALLS_WITHOUT_GRAD,
    (False, True): causes.CALLS_CUT,
    (True, True): causes.CALLS_WITHOUT_GRAD_AND_CUT,
}


def not_called(record: StepRecord, options: Values) -> Iterator[Observation]:
    for name, module in _learners(record):
        if module.state == "not called" and not isinstance(module.coverage, Absent):
            yield Observation(name, 0.0, f"{name}: its forward never ran", causes.NOT_USED)


def collapse(record: StepRecord, options: Values) -> Iterator[Observation]:
    outputs = {name: record.modules[name].output for name in record.order}
    known = [stats for stats in outputs.values() if not isinstance(stats, Absent)]
    samples_differ = any(
        stats.inputs_differ or (not isinstance(stats.share, Absent) and stats.share >= options["below"])
        for stats in known
    )
    for name, stats in outputs.items():
        # few elements are the logits of a head, often constant at the start on purpose
        if isinstance(stats, Absent) or stats.elements < options["elements"] or stats.rows < options["rows"]:
            continue
        if samples_differ and stats.inputs_differ is False:
            continue  # a side input that is the same for all samples, as token types of single sentences
        if not isinstance(stats.share, Absent) and stats.share < options["below"]:
            message = (
                f"{name}: its output is nearly the same for all samples, {{value}} of its mean square differs"
            )
            yield Observation(name, stats.share, message, causes.SWAMPED)
            return  # modules behind it inherit the collapse


def outside_the_model(record: StepRecord, options: Values) -> Iterator[Observation]:
    """Speaks only where the optimisers are known, which might hold such a tensor."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for stranger in record.strangers if record.optimizers else ():
        shape = "x".join(map(str, stranger.shape)) or "a scalar"
        groups.setdefault((stranger.module, stranger.layer), []).append(shape)
    for (name, layer), shapes in groups.items():
        listed = ", ".join(shapes[:3]) + (", ..." if len(shapes) > 3 else "")
        message = f"{name or 'model'}: gradient comes to {len(shapes)} tensors that are not its parameters ({listed})"
        cause = causes.UNREGISTERED_LAYERS if layer else causes.PLAIN_TENSOR
        yield Observation(name, float(len(shapes)), message, cause, key=cause)


def evaluation_mode(record: StepRecord, options: Values) -> Iterator[Observation]:
    for name, module in _learners(record):
        if module.state == "arrived" and module.evaluating:
            listed = ", ".join(layer or name for layer in module.evaluating[:3])
            more = ", ..." if len(module.evaluating) > 3 else ""
            message = f"{name}: it is trained while in evaluation mode, {listed}{more} with it"
            yield Observation(name, float(len(module.evaluating)), message, causes.LEFT_IN_EVALUATION)

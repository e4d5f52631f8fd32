"""Calls of a module: which of them receive gradient, and whether there are any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diagnostics.causes import Cause
from diagnostics.findings import Severity
from diagnostics.records import Absent, CallRecord, StepRecord
from diagnostics.rules.options import Values
from diagnostics.rules.rule import UNTRAINED, WARNING, Family, Observation, Rule, lasting, learners

CALLS_WITHOUT_GRAD = Cause("calls-without-grad", "the other calls run with gradients disabled")
CALLS_DECLARED = Cause(
    "calls-without-grad-declared", "the other calls run with gradients disabled, as declared"
)
CALLS_CUT = Cause(
    "calls-cut", "the results of the other calls are detached on the way to the loss, or not used"
)
CALLS_ZERO = Cause(
    "calls-zero",
    "the gradient of the other calls is exactly zero: their rows are masked, or a factor of zero follows",
)
CALLS_WITHOUT_GRAD_AND_CUT = Cause(
    "calls-without-grad-and-cut",
    "some calls run with gradients disabled, and the results of others are detached or not used",
)
NOT_USED = Cause(
    "not-used",
    "it is not used, a copy of it is used, or its results from an earlier step are cached",
    remedy="Call it in the step that supervises it, and use that result in the loss, not one from an earlier step.",
)

UNCHOSEN = Cause(
    "unchosen",
    "steps choose between modules of its list, and no step has chosen it so far",
    remedy="Check how often a router chooses each expert; a term of the loss can balance them.",
)

_CAUSES = {
    (True, False): CALLS_WITHOUT_GRAD,
    (False, True): CALLS_CUT,
    (True, True): CALLS_WITHOUT_GRAD_AND_CUT,
    (False, False): CALLS_ZERO,
}
"""(some ran with gradients disabled, some were cut later) -> the cause."""


WASTED = 0.5
"""Share of calls with zeros alone from which they are no masked rest but work for nothing, as in WASTE001."""


def find_partial_calls(record: StepRecord, options: Values) -> Iterator[Observation]:
    """CALL001; a note where the other calls are declared, or are fewer than half and received zeros alone."""
    for name, module in learners(record):
        total, reached = module.calls_total, module.calls_with_gradient
        zero = sum(call.reached and not call.gradient for call in module.calls)
        repeated = any(call.recomputed or call.unknown for call in module.calls)
        if module.state != "arrived" or reached >= total or repeated:
            continue
        disabled = total - module.calls_grad_enabled
        cut = total - reached - disabled - zero
        declared = name in record.partial and not cut and disabled > 0
        sampling = not cut and all(call.in_sampling for call in module.calls if not call.grad_enabled)
        cause = CALLS_DECLARED if declared else _CAUSES[disabled > 0, cut > 0]
        minor = (
            declared
            or (cause is CALLS_WITHOUT_GRAD and sampling)
            or (cause is CALLS_ZERO and zero < WASTED * total)
            or (cause in (CALLS_CUT, CALLS_WITHOUT_GRAD) and _is_stop_gradient(record, name, cause))
            or (cause is not CALLS_ZERO and _is_evaluated_between(record, name))
        )
        message = (
            f"{name}: {reached} of {total} calls received gradient; {disabled} ran with gradients disabled,"
            f" {cut} were cut later{f', {zero} received zeros alone' if zero else ''}"
        )
        yield Observation(
            name, float(reached), message, cause, key=minor, severity=Severity.NOTE if minor else None
        )


def _is_stop_gradient(
    record: StepRecord, name: str, cause: Cause, seen: frozenset[str] = frozenset()
) -> bool:
    """Whether at most half of the sequences of calls have no gradient; each begins with a call that reads data.

    Or the outputs of modules of which the same is true, as of a projector behind an encoder. In a recursion that is cut
    the second call with gradient reads what the first one returned. Of more than two sequences, those without gradient
    must have run with gradients disabled, as for pseudo-labels.
    """
    calls = record.modules[name].calls
    arrived = _sequences(calls)
    if cause is CALLS_CUT and arrived and _feeds_another_optimizer(record, name):
        return True
    if arrived:
        return _are_few(arrived, cause)
    sources, seen = record.into.get(name, frozenset()), seen | {name}
    if not sources or sources & seen:  # a recursion
        return False
    own = [call.reached for call in calls]
    alike = all([call.reached for call in record.modules[each].calls] == own for each in sources)
    return (alike or _are_few(own, cause)) and all(
        _is_stop_gradient(record, each, cause, seen) for each in sources
    )


def _is_evaluated_between(record: StepRecord, name: str, seen: frozenset[str] = frozenset()) -> bool:
    """Whether a step of several updates calls a module on data without gradient, disabled or before all others.

    Between updates a loop evaluates: it computes advantages before them, and divergences after each.
    """
    calls = record.modules[name].calls
    first = next((place for place, call in enumerate(calls) if call.reached), 0)
    if max(record.optimizers, default=0) < 2:
        return False
    if not all(each.reached or not each.grad_enabled or place < first for place, each in enumerate(calls)):
        return False
    if all(each.reached or each.raw for each in calls):
        return True
    sources, seen = record.into.get(name, frozenset()), seen | {name}
    own = [call.reached for call in calls]
    alike = all([call.reached for call in record.modules[each].calls] == own for each in sources)
    return (
        bool(sources)
        and not sources & seen
        and alike
        and all(_is_evaluated_between(record, each, seen) for each in sources)
    )


def _are_few(arrived: Sequence[bool], cause: Cause) -> bool:
    """Whether those without gradient are as few as those of a stop-gradient."""
    return 2 * sum(arrived) >= len(arrived) and (len(arrived) == 2 or cause is CALLS_WITHOUT_GRAD)


def _sequences(calls: Sequence[CallRecord]) -> list[bool]:
    """Whether gradient came to each sequence of calls that begins with data; none if one of them is cut inside."""
    found: list[bool] = []
    for call in calls:
        if call.raw:
            found.append(call.reached)
        elif not found or found[-1] != call.reached:
            return []
    return found


def _feeds_another_optimizer(record: StepRecord, name: str) -> bool:
    """Whether what reads its results is trained by another optimiser, as the critic of a generator, several times."""

    def optimizers(module: str) -> set[int]:
        places = (each.place for each in record.held_by(module))
        return {each.optimizer for each in places if not isinstance(each, Absent) and each.stepped}

    own = optimizers(name)
    readers = [other for other, sources in record.into.items() if name in sources]
    return any(bool(own) and optimizers(other) - own for other in readers)


def find_uncalled(record: StepRecord, options: Values) -> Iterator[Observation]:
    """CALL002; a note for one of several alike that steps choose from, as an expert that no sample was given to."""
    for name, module in learners(record):
        set_aside = record.is_declared_target(name) or name in record.left_out
        if module.state == "not called" and not isinstance(module.coverage, Absent) and not set_aside:
            idle = is_unchosen(record, name)
            severity = Severity.NOTE if idle else None
            message = f"{name}: its forward never ran"
            yield Observation(name, 0.0, message, UNCHOSEN if idle else NOT_USED, key=idle, severity=severity)


def is_unchosen(record: StepRecord, name: str) -> bool:
    """Whether a step does not call a module, and leaves out it or one of the same list and class that others call."""
    if record.modules[name].state != "not called":
        return False
    path, kind = name.rpartition(".")[0], record.kinds.get(name)
    alike = (other for other in record.left_out if path and other.rpartition(".")[0] == path)
    return name in record.left_out or any(record.kinds.get(other) == kind for other in alike)


CALL001 = Rule(
    "CALL001",
    WARNING,
    "Only some calls receive gradient",
    "calls_with_gradient",
    "If it is the design, declare it with expect_partial; otherwise move the calls out of no_grad, or remove the"
    " detach().",
    find_partial_calls,
    lasting(5),
    causes=(CALLS_WITHOUT_GRAD, CALLS_DECLARED, CALLS_CUT, CALLS_WITHOUT_GRAD_AND_CUT, CALLS_ZERO),
    what="Some of the module's calls in a step receive no gradient. A note if `expect_partial` names the module"
    " and these calls ran with gradients disabled, if fewer than half of the calls received only zeros, or if"
    " at most half of the calls on data have no gradient, as for targets, or if a step has several updates and those"
    " calls on data are evaluations before or between them, or if all of them ran when the whole model"
    " was given integers alone with gradients disabled, as to sample words. Calls that checkpointing repeats do"
    " not count.",
    why="Truncation shortens the credit assignment of a recursion, by design or by accident.",
    example="Three of four cycles of a shared core run under `no_grad`.",
    false_alarms="Truncation by design that is not declared; an auxiliary call for logging.",
    rank=180,
)
CALL002 = Rule(
    "CALL002",
    WARNING,
    "The module is never called",
    "calls",
    "Remove it, or call it; if it is called through other methods, watch the modules inside it.",
    find_uncalled,
    lasting(5),
    causes=(NOT_USED, UNCHOSEN),
    what="The forward of a module with trainable parameters never runs, or stops running. A note if the steps call"
    " different modules of one list, as experts.",
    why="It is dead code, or its results are cached.",
    example="`self.pooler` is created and never used.",
    false_alarms="A module that is called through other methods than `forward`; COV003 if all its parameters have"
    " gradient.",
    explains=UNTRAINED | {"GRAD001"},
    rank=20,
)
FAMILY = Family(40, "Calls of modules", (CALL001, CALL002))

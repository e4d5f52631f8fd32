"""Assertions for tests: a failure shows the table of modules and the finding, never a bare number.

They take two kinds of functions, both without arguments, closing over model and data:

- `loss`: runs the forward pass and returns the loss, a scalar tensor. The assertion does the backward pass,
  and leaves weights, buffers, gradients and random numbers as they were.
- `train_step`: one whole training step with its backward pass and optimiser. It trains the model.

`ignore` takes names and patterns as `pooler.*`, of modules and parameters alike.

A gradient of zero may have two reasons. If it is zero only because a neighbouring weight starts at zero (a
gate, LoRA's second matrix, a zero-initialised head), the first updates end it; if the path is cut, masked or
dead, they do not. So after a zero the assertion tries again at other seeds, with every trainable weight moved by
noise of a tenth of its size (`diagnostics.testing.trials`): what then has gradient was zero at its initialisation and
passes, unless `allow_zero_at_init=False`; what stays zero in every trial is dead, and fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.causes import UNKNOWN, ZERO_AT_START, Cause
from diagnostics.errors import InvalidValue
from diagnostics.findings import Finding
from diagnostics.measures.frozen import MovementCause, TensorReport, compare, fingerprint
from diagnostics.monitor import Monitor
from diagnostics.recording.calls.capture import RowsFunction
from diagnostics.records import Absent, StepRecord
from diagnostics.report.tables import module_table
from diagnostics.rules.families.forward import calls
from diagnostics.rules.families.gradients import coverage, module_gradients, not_finite, reach
from diagnostics.rules.families.weights import frozen_parameters, movement
from diagnostics.rules.options import Values, settle
from diagnostics.rules.registry import options_of
from diagnostics.rules.rule import Observation, Rule
from diagnostics.selection import check_function, check_list, check_patterns, named_by
from diagnostics.testing.failure import CheckFailed, failure
from diagnostics.testing.survey import (
    ParameterFate,
    ParameterSurvey,
    fate_table,
    survey_steps,
    survey_training,
    why_still,
)
from diagnostics.testing.trials import nudge, untouched

LossFunction = Callable[[], Tensor]
TrainStep = Callable[[], object]


def assert_gradient_coverage(
    model: nn.Module,
    loss: LossFunction,
    samples: int,
    *,
    at_least: float = 1.0,
    watch: Sequence[str] | None = None,
    rows: Mapping[str, RowsFunction] | None = None,
    ignore: Sequence[str] = (),
    allow_zero_at_init: bool = True,
    seeds: int = 3,
) -> StepRecord:
    """Every watched module that has trainable parameters gets gradient from enough samples.

    Args:
        samples: Samples in the loss.
        at_least: Share of them that must send gradient through each module.
        watch, rows: Arguments of `Monitor`.
        seeds: Further trials where a module falls short; the best of all trials counts.

    Raises:
        AssertionError: A module falls short, or its coverage is not known.
        ValueError: No module is left to judge, or a pattern matches nothing.
    """
    __tracebackhide__ = True
    check_function("loss", loss)
    monitor = _monitor(model, loss, samples, watch, rows)
    first = monitor.last
    check_list("ignore", ignore)
    check_patterns("ignore", [pattern.removesuffix(".*") for pattern in ignore], first.modules)
    judged = [
        name
        for name, module in first.modules.items()
        if module.params_trainable and not named_by(ignore, name)
    ]
    if not judged:
        raise InvalidValue(
            "assertions.no-module", "no watched module with trainable parameters is left to judge"
        )
    short = [name for name in judged if not _covers(first, name, at_least)]
    zero_at_init: set[str] = set()
    for seed in range(seeds if short else 0):
        again = _monitor(model, loss, samples, watch, rows, seed).last
        zero_at_init |= {name for name in short if _covers(again, name, at_least)}
    dead = [name for name in short if not (allow_zero_at_init and name in zero_at_init)]
    if dead:
        raise _coverage_failure(monitor, dead, zero_at_init, at_least, seeds)
    return first


def _monitor(
    model: nn.Module,
    loss: LossFunction,
    samples: int,
    watch: Sequence[str] | None,
    rows: Mapping[str, RowsFunction] | None,
    seed: int | None = None,
) -> Monitor:
    """A monitor that recorded one backward pass."""
    with untouched(model):
        if seed is not None:
            nudge(model, seed)
        with (
            Monitor(model, watch=watch, rows=rows, operations=False) as monitor,
            monitor.step(samples=samples),
        ):
            loss().backward()
    return monitor


def _covers(record: StepRecord, name: str, at_least: float) -> bool:
    coverage = record.modules[name].coverage
    return not isinstance(coverage, Absent) and coverage >= at_least


def _coverage_failure(
    monitor: Monitor, dead: Sequence[str], zero_at_init: set[str], at_least: float, seeds: int
) -> CheckFailed:
    findings, record = [], monitor.last
    seen = _causes(record)
    for name in dead:
        share = record.modules[name].coverage
        if isinstance(share, Absent):
            rule, value, cause = coverage.COV003, float("nan"), share.cause
            measured = "coverage is not known"
        else:
            low = coverage.COV001.threshold
            rule, value = coverage.COV001 if low is not None and share < low else coverage.COV002, share
            measured = f"a share of {share:.3g} of the {record.samples} samples sends gradient through it"
            likely = seen.get(name, UNKNOWN)
            cause = ZERO_AT_START if name in zero_at_init else _dead(likely, seeds)
        message = f"{name}: {measured}, needed {at_least:.3g}"
        findings.append(failure(rule, name, message, value, at_least, cause))
    causes_first = [each for cause in monitor.fold(findings) for each in (cause, *cause.consequences)]
    return CheckFailed(causes_first, module_table(record))


_COVERAGE_CAUSES = (
    coverage.COV001,
    coverage.COV002,
    calls.CALL002,
    module_gradients.GRAD002,
    module_gradients.GRAD001,
)
"""Rules that tell why coverage is low; a later one, about a coverage of 0, is the more precise one."""


def _causes(record: StepRecord) -> dict[str, Cause]:
    """The likely cause, by module."""
    options = settle(options_of(_COVERAGE_CAUSES))
    return {
        seen.module: seen.cause
        for rule in _COVERAGE_CAUSES
        for seen in _observe(rule, record, options[rule.id])
    }


def _observe(rule: Rule, record: StepRecord, options: Values) -> Iterable[Observation]:
    return rule.check(record, options) if rule.check else ()


def _dead(cause: Cause, seeds: int) -> Cause:
    text = f"; the same at {seeds} further seeds with the weights moved a little, so it is dead"
    return cause.adding(text)


def assert_all_params_receive_grad(
    model: nn.Module,
    loss: LossFunction,
    *,
    ignore: Sequence[str] = (),
    allow_zero_at_init: bool = True,
    seeds: int = 3,
) -> list[str]:
    """Every trainable parameter gets a finite gradient that is not all zero.

    Returns:
        The parameters whose gradient is zero at their initialisation alone.

    Raises:
        AssertionError: A parameter gets none, zeros alone at every seed, or a gradient that is not finite.
        ValueError: No trainable parameter is left to judge, or a pattern matches nothing.
    """
    __tracebackhide__ = True
    check_function("loss", loss)
    fates = _survey(model, loss)
    judged = {fate.name for fate in _judged(fates, ignore)}
    missing = {fate.name: fate for fate in fates if fate.name in judged and fate.gradient != "arrived"}
    late: set[str] = set()
    for seed in range(seeds if missing else 0):
        late |= {
            fate.name
            for fate in _survey(model, loss, seed)
            if fate.gradient == "arrived" and fate.name in missing
        }
    late -= {name for name, fate in missing.items() if fate.gradient == "not finite"}
    dead = [fate for name, fate in missing.items() if not (allow_zero_at_init and name in late)]
    if dead:
        raise CheckFailed(
            [_gradient_finding(fate, late, seeds) for fate in dead],
            fate_table(fates, [fate.name for fate in dead]),
        )
    return sorted(late)


def _survey(model: nn.Module, loss: LossFunction, seed: int | None = None) -> list[ParameterFate]:
    survey = ParameterSurvey(model)
    with untouched(model):
        if seed is not None:
            nudge(model, seed)
        with survey.watching():
            loss().backward()
    return survey.fates


_DEAD = {"none": reach.NOT_IN_LOSS, "zero": reach.DEAD_UNIT}
_RECEIVES = {
    "none": (reach.REACH001, "gets no gradient"),
    "zero": (reach.REACH002, "gets a gradient that is all zero"),
    "not finite": (not_finite.REACH003, "gets a gradient that is not finite"),
}


def _gradient_finding(fate: ParameterFate, late: set[str], seeds: int) -> Finding:
    rule, happened = _RECEIVES[fate.gradient]
    if fate.gradient == "not finite":
        cause = not_finite.OVERFLOW
    else:
        cause = ZERO_AT_START if fate.name in late else _dead(_DEAD[fate.gradient], seeds)
    return failure(rule, fate.owner, f"{fate.name} {happened}", 0.0, None, cause)


def assert_trains(
    model: nn.Module, train_step: TrainStep, *, steps: int = 3, ignore: Sequence[str] = ()
) -> None:
    """Every trainable parameter changes within `steps` training steps, which train the model.

    Raises:
        AssertionError: Some do not move.
        ValueError: No trainable parameter is left to judge, or a pattern matches nothing.
    """
    __tracebackhide__ = True
    check_function("train_step", train_step)
    fates = survey_training(model, train_step, steps)
    judged = _judged(fates, ignore)
    still = [fate for fate in judged if not fate.changed]
    if still:
        raise CheckFailed(
            [_still_finding(fate, fates, steps) for fate in still],
            fate_table(fates, [fate.name for fate in still]),
        )


def _still_finding(fate: ParameterFate, fates: Sequence[ParameterFate], steps: int) -> Finding:
    message = f"{fate.name} did not move in {steps} steps"
    return failure(movement.MOVE001, fate.owner, message, 0.0, None, why_still(fate, fates), steps)


def assert_frozen(
    model: nn.Module,
    train_step: TrainStep,
    modules: Sequence[str],
    *,
    steps: int = 3,
    optimizers: Iterable[Optimizer] = (),
    ignore: Sequence[str] = (),
) -> None:
    """Not one bit of the named modules changes while the rest trains. It trains the model.

    Args:
        modules: Names or patterns of what must not move: parameters and buffers.
        optimizers: Optimisers of the training step that are not of torch.optim; the others are found.

    Raises:
        AssertionError: Something frozen moved, or nothing else did, so the assertion shows nothing.
        ValueError: A pattern matches nothing.
    """
    __tracebackhide__ = True
    check_function("train_step", train_step)
    optimizers = list(optimizers)
    before = fingerprint(model, optimizers)
    check_patterns("modules", modules, before.tensors)
    check_patterns("ignore", ignore, before.tensors)
    survey = survey_steps(model, train_step, steps)
    fates = survey.fates
    report = compare(before, model, [*optimizers, *survey.optimizers])
    frozen = {name for name in before.tensors if named_by(modules, name)}
    frozen -= {name for name in frozen if named_by(ignore, name)}
    moved = [tensor for tensor in report.moved if tensor.name in frozen]
    rest = [fate for fate in fates if fate.name not in frozen and fate.trainable]
    applied = {fate.name for fate in fates if fate.applied == "applied" and not fate.trainable}
    findings = [
        failure(
            frozen_parameters.FROZEN001,
            tensor.name.rpartition(".")[0],
            f"{tensor.name} should be frozen and moved in {steps} steps",
            float("nan") if tensor.largest is None else tensor.largest,
            0.0,
            _why_moved(tensor, tensor.name in applied),
            steps,
        )
        for tensor in moved
    ]
    if rest and not any(fate.changed for fate in rest):
        message = "nothing else moved either, which proves nothing: the training step does not train"
        findings.append(failure(movement.MOVE001, "", message, 0.0, None, movement.NO_UPDATE, steps))
    if findings:
        raise CheckFailed(findings, fate_table(fates, [tensor.name for tensor in moved]))


def _why_moved(tensor: TensorReport, applied: bool) -> Cause:
    """Why a tensor that should be frozen moved.

    Args:
        applied: Whether an optimiser found a gradient of it although it requires none, which may be cleared since.
    """
    if tensor.cause is None:
        return UNKNOWN
    stale = applied and tensor.cause == "outside the optimiser"
    return _MOVED["stale gradients" if stale else tensor.cause]


_MOVED: Mapping[MovementCause, Cause] = {
    "weight decay": Cause(movement.WEIGHT_DECAY.code, "weight decay of its group in the optimiser"),
    "stale gradients": movement.STALE_GRADIENT_FROZEN,
    "stale momentum": movement.OPTIMIZER_STATE,
    "unfrozen": movement.TRAINED,
    "buffer update": frozen_parameters.RUNNING_STATISTICS,
    "outside the optimiser": movement.OUTSIDE_OPTIMIZER,
}


def _judged(fates: Sequence[ParameterFate], ignore: Sequence[str]) -> list[ParameterFate]:
    check_patterns("ignore", ignore, [fate.name for fate in fates])
    judged = [fate for fate in fates if fate.trainable and not named_by(ignore, fate.name)]
    if not judged:
        raise InvalidValue("assertions.no-parameter", "no trainable parameter is left to judge")
    return judged

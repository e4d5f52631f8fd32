"""Gradients of a module as a whole: none, only zeros, or next to none."""

from __future__ import annotations

import math
from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.records import Absent, ParameterRecord, StepRecord
from diagnostics.records.columns import largest_of
from diagnostics.rules.options import Option, Values
from diagnostics.rules.parameter_checks import receives
from diagnostics.rules.rule import (
    CRITICAL,
    NOTE,
    UNTRAINED,
    WARNING,
    Family,
    Observation,
    Rule,
    lasting,
    learners,
)
from diagnostics.selection import has_role

NO_GRAD = Cause(
    "no-grad",
    "it runs only inside torch.no_grad() or inference_mode()",
    remedy="Call it outside torch.no_grad() and inference_mode(); if it must not train, set requires_grad to False.",
)
DETACHED = Cause(
    "detached",
    "its output is unused or detached: .item(), .data, detach(), a copy through Python or numpy",
    remedy="Let the loss use its output as a tensor: no .item(), .data, detach() or copy through Python or numpy.",
)
CUT_INSIDE = Cause(
    "cut-inside",
    "its own forward ends the graph: .item(), argmax, detach(), no_grad()",
    remedy="Keep tensors in its forward: no .item(), argmax, detach() or no_grad() between its weights and its output.",
)
ZERO_FACTOR = Cause(
    "zero-factor",
    "a factor of zero (mask, gate, weight) or a flat function (saturated unit, clamp(), round(), sign()) between"
    " its output and the loss",
    remedy="Find the zero factor, or the flat function, between its output and the loss.",
)
TINY_FACTOR = Cause(
    "tiny-factor",
    "a tiny factor between its output and the loss: a scale, a gate, a mixture with detach(); or a"
    " normalisation that cancels its scale",
)
NOT_SCALED = Cause(
    "not-scaled",
    "its loss was not multiplied by the scale of the GradScaler, {scale:g}, but its gradient is divided by it",
    remedy="Call scaler.scale(loss).backward() for each loss.",
)
REQUIRES_GRAD_FALSE = Cause("requires-grad-false", "requires_grad is False for all of its parameters")
FROZEN_AT_ZERO = Cause(
    "frozen-at-zero",
    "all weights of {layer} are 0 and requires_grad is False, so its output stays 0",
    remedy="Freeze the base model before inserting the layer, as with the second matrix of a low-rank adapter.",
)
FROZEN_EMBEDDING = Cause(
    "frozen-embedding",
    "an optimiser holds it, and requires_grad is False: Embedding.from_pretrained() freezes without freeze=False",
    remedy="Pass freeze=False; if it is meant to be frozen, declare it with expect_frozen.",
)
TARGET = Cause(
    "target",
    "no gradient reaches it and it is in no optimiser: a target network, or an average of another module",
)
WITHOUT_GRADIENTS = Cause(
    "without-gradients",
    "the step changes every weight itself, without gradients and without an optimiser: a search without derivatives",
)
CHECKPOINT = Cause(
    "checkpoint-without-gradient",
    "reentrant checkpointing: none of the inputs of the checkpoint requires gradient, so it has no backward pass",
    remedy="Use checkpoint(..., use_reentrant=False), or let the input require gradient:"
    " model.enable_input_require_grads() in transformers.",
    together=True,
)
LOSS_MET = Cause(
    "loss-met",
    "after some training, the loss has no gradient for any sample, as with a margin that all samples satisfy",
)
FADED_OUT = Cause(
    "faded-out",
    "it had gradient before, and a branch next to it still has: its weight was reduced to zero on purpose, or"
    " its units died",
)
_NO_GRADIENT = {
    "no_grad": ("all {calls} calls of a step ran with gradients disabled", NO_GRAD),
    "detached": ("called {times} with gradients enabled, its outputs never reach the loss", DETACHED),
    "cut inside": (
        "called {times} with gradients enabled, none of its outputs carries gradient",
        CUT_INSIDE,
    ),
}
"""State of the module's gradient -> what happened, and the cause."""
_FLAT_START = (
    "a gate, LoRA's second matrix or a head that starts at zero ends with the first update; five steps also outlast"
    " a warm-up from 0"
)


def find_no_gradient(record: StepRecord, options: Values) -> Iterator[Observation]:
    """GRAD001."""
    for name, module in learners(record):
        if module.state in _NO_GRADIENT and not isinstance(module.coverage, Absent):
            happened, cause = _NO_GRADIENT[module.state]
            target = is_target(record, name)
            if any(call.checkpointed for call in module.calls):
                cause = CHECKPOINT
            elif target:
                cause = TARGET
            elif record.changed_by_hand():
                cause = WITHOUT_GRADIENTS
            calls = module.calls_total
            times = "once" if calls == 1 else f"{calls} times"
            message = f"{name}: no gradient; {happened.format(calls=calls, times=times)}"
            yield Observation(
                name,
                0.0,
                message,
                cause,
                key=cause,
                severity=NOTE if cause in (TARGET, WITHOUT_GRADIENTS) else None,
            )


def is_target(record: StepRecord, module: str) -> bool:
    """Whether no gradient reaches it, no optimiser holds it, and it is written otherwise or copies another one."""
    state = record.modules[module].state
    if record.is_declared_target(module):
        return state != "arrived"
    if state not in ("no_grad", "detached"):
        return False
    own = record.held_by(module)
    outside = all(isinstance(each.place, Absent) and each.place.code == "in-no-group" for each in own)
    source = record.copies.get(module, "")
    copy = bool(source) and (state == "no_grad" or has_role(module, others=[source]))
    return bool(own) and outside and (copy or any(each.changed for each in own))


def find_zero_gradient(record: StepRecord, options: Values) -> Iterator[Observation]:
    """GRAD002; a note where the whole loss has no gradient any more, or another branch took over."""
    others = [name for name, module in learners(record) if module.state == "arrived"]
    for name, module in learners(record):
        if module.state != "zero":
            continue
        trained = any(parameter.largest > 0.0 for parameter in record.held_by(name))
        met = trained and not others
        cause = LOSS_MET if met else FADED_OUT if is_faded_out(record, name) else ZERO_FACTOR
        message = f"{name}: a gradient arrives and every element of it is zero"
        minor = None if cause is ZERO_FACTOR else NOTE
        yield Observation(name, 0.0, message, cause, key=cause, severity=minor)


def is_faded_out(record: StepRecord, module: str) -> bool:
    """Whether it trained before and receives zeros now, and other modules have taken its place.

    They came after the first step, or stand next to it before all of its readers.
    """
    if record.modules[module].state != "zero" or not any(
        each.largest > 0.0 for each in record.held_by(module)
    ):
        return False
    trained = {name for name, each in learners(record) if each.state == "arrived"}
    if trained - record.into.keys():
        return True
    readers = [sources for sources in record.into.values() if module in sources]
    return bool(readers) and all(
        any(other != module and module not in record.into[other] for other in sources & trained)
        for sources in readers
    )


def find_undeclared_frozen(record: StepRecord, options: Values) -> Iterator[Observation]:
    """GRAD003."""
    declared = {parameter.owner for parameter in record.parameters.values() if parameter.expect_frozen}
    for name, module in record.modules.items():
        if (
            module.params_total
            and not module.params_trainable
            and name not in declared
            and not record.is_declared_target(name)
        ):
            message = f"{name}: none of its {module.params_total} parameters is trainable"
            zero = _find_zero_layer(record, name)
            if zero is not None:
                cause = FROZEN_AT_ZERO.of(layer=zero)
                yield Observation(name, 0.0, message, cause, key="zero", severity=WARNING)
                continue
            held = all(not isinstance(each.place, Absent) for each in record.held_by(name))
            if held and record.kinds.get(name) == "Embedding":
                yield Observation(name, 0.0, message, FROZEN_EMBEDDING, key="embedding", severity=WARNING)
            else:
                yield Observation(name, 0.0, message, REQUIRES_GRAD_FALSE)


def _find_zero_layer(record: StepRecord, module: str) -> str | None:
    """A layer of a called module whose weights are all zero and not written to: frozen, it has no effect."""
    if record.modules[module].state == "not called" or module in record.copies:
        return None
    layers: dict[str, list[ParameterRecord]] = {}
    for name, parameter in record.parameters.items():
        if name.startswith(f"{module}."):
            layers.setdefault(name.rpartition(".")[0], []).append(parameter)
    zero = (
        layer
        for layer, own in layers.items()
        if max(each.numel for each in own) > 1 and all(_is_dead(each) for each in own)
    )
    return next(zero, None)


def _is_dead(parameter: ParameterRecord) -> bool:
    return parameter.weight_norm == 0.0 and not parameter.changed and not parameter.requires_grad


def find_faint_gradient(record: StepRecord, options: Values) -> Iterator[Observation]:
    """GRAD005."""
    leverages = {  # of the smallest numbers it is 0, since their squares are
        name: module.leverage
        for name, module in learners(record)
        if module.state == "arrived"
        and module.leverage < math.inf
        and any(map(receives, record.held_by(name)))
        and any(each.weight_norm > 0.0 for each in record.held_by(name))  # or it is 0, whatever the gradient
    }
    largest = largest_of(list(leverages.values()))
    for name, leverage in leverages.items():
        scale = _scale(record, name)
        unscaled = scale > _SCALED and leverage < min(_UNSCALED / scale, _MOST) * largest
        if leverage < options["below"] * largest or unscaled:
            message = (
                f"{name}: the loss responds {{value}} times as much to its weights as to another module's"
            )
            cause = NOT_SCALED.of(scale=scale) if unscaled else TINY_FACTOR
            yield Observation(name, leverage / largest, message, cause, key=unscaled)


def _scale(record: StepRecord, module: str) -> float:
    """The scale of the GradScaler that its gradient is divided by, 1 where there is none."""
    scales = [each.place.scale for each in record.held_by(module) if not isinstance(each.place, Absent)]
    return largest_of(scales) if scales else 1.0


_SCALED = 2.0**10  # a smaller scale is no larger than the ratio of two healthy modules
_UNSCALED = 10.0  # margin over the inverse of the scale
_MOST = 1e-3
"""A module whose loss was not scaled has a gradient of 1 / scale of what it should; modules of healthy models differ
by factors of tens, and 1e-3 is far from that."""
GRAD001 = Rule(
    "GRAD001",
    CRITICAL,
    "No gradient reaches the module",
    "coverage",
    "Enable gradients and keep its outputs as tensors up to the loss; if it must not train, set requires_grad"
    " to False.",
    find_no_gradient,
    lasting(5),
    causes=(NO_GRAD, DETACHED, CUT_INSIDE, CHECKPOINT, TARGET, WITHOUT_GRADIENTS),
    what="No gradient reaches the module at all. A note for a target network, and where the step changes every weight"
    " itself, without an optimiser.",
    why="It keeps its initial weights.",
    example="`scores = torch.tensor([scorer(row).item() for row in x])`.",
    false_alarms="A target network or feature extractor that must not train: set `requires_grad` to False, and it"
    " is GRAD003.",
    explains=UNTRAINED,
    spreads="backward",
    rank=30,
)
GRAD002 = Rule(
    "GRAD002",
    WARNING,
    "Only zero gradient reaches the module",
    "coverage",
    "Find the zero factor, or the flat function, between its output and the loss.",
    find_zero_gradient,
    lasting(5, why=_FLAT_START),
    causes=(ZERO_FACTOR, LOSS_MET, FADED_OUT),
    what="The backward pass reaches the module, but every gradient is zero.",
    why="The module does not learn, although the graph is complete.",
    example="A frozen gate that was initialised at zero; `round()` without a straight-through estimator.",
    false_alarms="None known: a gate that starts at zero and trains has gradient before five steps are over.",
    explains=UNTRAINED,
    spreads="backward",
    rank=40,
)
GRAD003 = Rule(
    "GRAD003",
    NOTE,
    "The module is frozen",
    "coverage",
    "If it is meant to be frozen, declare it with expect_frozen: its weights are then watched for movement.",
    find_undeclared_frozen,
    lasting(5),
    causes=(REQUIRES_GRAD_FALSE, FROZEN_EMBEDDING, FROZEN_AT_ZERO),
    what="All parameters of the module have `requires_grad` False, and `expect_frozen` does not name it."
    " A warning for an embedding that an optimiser holds, and for a layer of zeros.",
    why="A module frozen by accident looks like one frozen on purpose.",
    example="`model.decoder.requires_grad_(False)` left over from an experiment.",
    false_alarms="Every module that is frozen on purpose and not declared.",
    rank=50,
)
GRAD005 = Rule(
    "GRAD005",
    WARNING,
    "Almost no gradient reaches the module",
    "leverage_share",
    "Find the tiny factor between its output and the loss, and let the gradient through unchanged.",
    find_faint_gradient,
    {
        "below": Option(
            1e-5,
            0.0,
            1.0,
            "share of the largest leverage",
            why="within two of the seven digits of single precision; modules of healthy models differ by factors"
            " of tens or hundreds",
        ),
        **lasting(
            20,
            why="a layer scale that starts at 1e-6 (CaiT, ConvNeXt) leaves this region after a few steps of Adam",
        ),
    },
    "below",
    causes=(TINY_FACTOR, NOT_SCALED),
    what="The leverage of the module, the norm of its gradient times the norm of its weights, is less than a"
    " hundred thousandth of the largest among the watched modules, or than ten times the inverse of the scale of a"
    " GradScaler.",
    why="The module covers every sample but hardly learns. Adam hides this: it moves the weights by rounding"
    " errors and `eps`.",
    example="`context = 1e-6 * context + (1 - 1e-6) * context.detach()`.",
    false_alarms="A module that only an auxiliary loss of tiny weight trains.",
    explains=frozenset({"MOVE001", "MOVE004", "REACH007"}),
    spreads="backward",
    rank=70,
)
FAMILY = Family(30, "Gradients of modules", (GRAD001, GRAD002, GRAD003, GRAD005))

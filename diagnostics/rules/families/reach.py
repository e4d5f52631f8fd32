"""Reach: the gradient of single parameters, and of tensors that are not parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator

from diagnostics.causes import ZERO_AT_START, Cause
from diagnostics.records import Absent, ParameterRecord, StepRecord
from diagnostics.rules.options import Values
from diagnostics.rules.parameter_checks import first_few, grouped, receives
from diagnostics.rules.rule import CRITICAL, NOTE, UNTRAINED, WARNING, Family, Observation, Rule, lasting

REPLACED_PARAMETER = Cause(
    "replaced-parameter",
    "the model holds another tensor instead: it was replaced after the monitor was made",
    remedy="Make the monitor and the optimiser after parameters are replaced.",
)
NOT_IN_LOSS = Cause("not-in-loss", "the loss does not use it, or its result is detached inside the module")
DEAD_UNIT = Cause("dead-unit", "a dead unit, a mask, or a neighbouring weight that stays at zero")
OVERFLOW_IN_OUTPUT = Cause(
    "overflow-in-output",
    "overflow, division by zero or the logarithm of zero: the output of {module} is the first that is not finite",
)
OVERFLOW_ELSEWHERE = Cause(
    "overflow-elsewhere",
    "overflow, division by zero or the logarithm of zero, after the last watched module or in the backward pass:"
    " all outputs are finite",
)
OVERFLOW = Cause("overflow", "overflow, division by zero or the logarithm of zero, in forward or backward")
NO_EFFECT = Cause(
    "no-effect",
    "it cannot change the loss: a bias before a normalisation, or of the keys of an attention",
)
UNREGISTERED_LAYERS = Cause(
    "unregistered-layers",
    "layers in a plain list, dictionary or other object, which does not register them",
)
PLAIN_TENSOR = Cause(
    "plain-tensor", "a tensor with requires_grad was set as an attribute, without nn.Parameter"
)


def _is_open(record: StepRecord, parameter: ParameterRecord) -> bool:
    """Whether it is trainable, and no rule reports its module as a whole."""
    module = record.modules.get(parameter.owner)
    arrived = module is None or module.state == "arrived" or isinstance(module.coverage, Absent)
    return parameter.requires_grad and not parameter.expect_frozen and arrived


def _judge_missing(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    if not _is_open(record, parameter) or parameter.reach.kind != "none" or parameter.assigned:
        return None
    return REPLACED_PARAMETER if parameter.replaced else NOT_IN_LOSS


def _judge_zero(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    zero = _is_open(record, parameter) and parameter.reach.kind == "zero"
    return DEAD_UNIT if zero else None


def _judge_finite(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    if parameter.reach.finite is not False or not parameter.changed:
        return None
    for name in record.order:
        stats = record.modules[name].output
        if not isinstance(stats, Absent) and not math.isfinite(stats.rms):
            return OVERFLOW_IN_OUTPUT.of(module=name)
    return OVERFLOW_ELSEWHERE


_ROUNDING = 100.0
"""Machine epsilons of a layer's largest gradient below which another gradient in it is rounding alone.

A sum of N terms that cancels leaves about sqrt(N) epsilons of a term, while the layer's other weights receive about
sqrt(N) terms that do not cancel: the ratio is a few epsilons whatever N is, and a normalisation adds a few more.
A hundred leaves room for that, and is still 1.2e-5 in single precision.
"""


def judge_rounding(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    """Whether the gradient is the rounding of a sum that is zero in exact numbers, by the others of its layer."""
    below = _ROUNDING * parameter.rounding * parameter.layer_size
    rounding = receives(parameter) and parameter.reach.finite is True and parameter.size < below
    return NO_EFFECT if rounding else None


def find_unregistered(record: StepRecord, options: Values) -> Iterator[Observation]:
    """REACH005; needs the optimisers, which might hold such a tensor."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for stranger in record.strangers if record.optimizers else ():
        shape = "x".join(map(str, stranger.shape)) or "a scalar"
        groups.setdefault((stranger.module, stranger.layer), []).append(shape)
    for (name, layer), shapes in groups.items():
        message = (
            f"{name or 'model'}: {len(shapes)} tensors that are not its parameters receive gradient"
            f" ({first_few(shapes)})"
        )
        cause = UNREGISTERED_LAYERS if layer else PLAIN_TENSOR
        yield Observation(name, float(len(shapes)), message, cause, key=cause)


REACH001 = Rule(
    "REACH001",
    WARNING,
    "Trainable parameters without gradient",
    "parameters",
    "Use them in the loss, or set requires_grad to False.",
    grouped("have no gradient", _judge_missing),
    lasting(5),
    causes=(REPLACED_PARAMETER, NOT_IN_LOSS, ZERO_AT_START),
    what="Trainable parameters got no gradient in the step, in a module that otherwise trains.",
    why="They are not part of the loss.",
    example="The last layer norm of an encoder whose output is taken before it.",
    false_alarms="Parameters used on some batches only, such as an embedding table for a rare feature.",
    explains=frozenset({"MOVE002"}),
    rank=140,
)
REACH002 = Rule(
    "REACH002",
    WARNING,
    "Parameters with zero gradient",
    "parameters",
    "Check initialisation and activations around them; assert_all_params_receive_grad tells zero at initialisation"
    " from dead.",
    grouped("receive a gradient that is all zero", _judge_zero),
    lasting(
        5,
        why="a zero at initialisation ends with the first update; five steps also outlast a warm-up from 0",
    ),
    causes=(DEAD_UNIT, ZERO_AT_START),
    what="Trainable parameters got a gradient that is zero in every element.",
    why="Nothing but weight decay moves them.",
    example="A ReLU with a bias of -100.",
    false_alarms="LoRA's first matrix while the second is still zero, which ends after the first update.",
    explains=frozenset({"MOVE002"}),
    rank=150,
)
REACH003 = Rule(
    "REACH003",
    CRITICAL,
    "A gradient is not finite, and was applied",
    "parameters",
    "Find the operation with torch.autograd.detect_anomaly(), clip or skip such steps, and resume from a checkpoint.",
    grouped("have a gradient that is not finite", _judge_finite),
    lasting(1, why="one applied step is enough to destroy the weights"),
    causes=(OVERFLOW_IN_OUTPUT, OVERFLOW_ELSEWHERE, OVERFLOW),
    what="A gradient was NaN or infinite, and the parameter changed in that step.",
    why="The weights are now damaged.",
    example="The logarithm of a probability that underflows.",
    false_alarms="None known: steps that a GradScaler skips are not reported.",
    explains=UNTRAINED | {"GRAD001", "MOVE001", "COLLAPSE001", "SPIKE001", "DRIFT001"},
    spreads="forward",
    irreversible=True,
    rank=10,
)
REACH004 = Rule(
    "REACH004",
    NOTE,
    "Gradient of rounding size",
    "parameters",
    "Leave the parameter out (bias=False): it has no effect.",
    grouped("receive a gradient that is rounding alone", judge_rounding),
    lasting(5),
    causes=(NO_EFFECT,),
    what="The elements of a parameter's gradient are smaller than a hundred machine epsilons of its type, times the"
    " largest root mean square of a gradient in the same layer.",
    why="In exact arithmetic its gradient is zero: what arrives is rounding. SGD does not move it, Adam moves it"
    " at random. MOVE001 does not report it.",
    example="The bias of a convolution before BatchNorm, which subtracts the mean; the bias of the keys of"
    " an attention, which softmax cancels.",
    false_alarms="None known: a gradient that is this small for another reason has next to no effect either.",
)
REACH005 = Rule(
    "REACH005",
    WARNING,
    "A tensor learns outside the model",
    "tensors",
    "Make it an nn.Parameter, keep layers in nn.ModuleList or nn.ModuleDict, and make the optimiser afterwards.",
    find_unregistered,
    lasting(5),
    needs_optimizer=True,
    causes=(UNREGISTERED_LAYERS, PLAIN_TENSOR),
    what="In the first two recorded steps the same tensor received gradient between inputs and outputs, and neither"
    " `model.parameters()` nor an optimiser holds it.",
    why="It looks trained, but no optimiser moves it, no checkpoint holds it, and `model.to(device)` leaves it.",
    example="`self.scale = torch.ones(16, requires_grad=True)`; `self.layers = [nn.Linear(16, 16), ...]`.",
    false_alarms="A tensor that the loop changes by hand, such as an adversarial perturbation. A tensor that only"
    " the loss function uses is not seen.",
)
FAMILY = Family(50, "Gradients of parameters", (REACH001, REACH002, REACH003, REACH004, REACH005))

"""Reach: the gradient of single parameters."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import ZERO_AT_START, Cause
from diagnostics.records import Absent, ParameterRecord, StepRecord
from diagnostics.records.columns import largest_of
from diagnostics.rules.options import Values
from diagnostics.rules.parameter_checks import first_few, grouped, receives
from diagnostics.rules.rule import NOTE, WARNING, Family, Observation, Rule, lasting

REPLACED_PARAMETER = Cause(
    "replaced-parameter",
    "the model holds another tensor instead, because the parameter was replaced after the monitor was made",
    remedy="Make the monitor and the optimiser after parameters are replaced.",
)
REMADE = Cause(
    "remade-in-step",
    "each step puts another tensor in its place, and no gradient comes to that: an average (EMA), as of a codebook",
)
NOT_IN_LOSS = Cause("not-in-loss", "the loss does not use it, or its result is detached inside the module")
FIRST_STATE = Cause(
    "first-state",
    "the weights between states have no gradient: the loss reads only the state after the first token",
    remedy="Read the last state, output[:, -1] with batch_first=True, or all states.",
)
FIRST_STATE_BACK = Cause(
    "first-state-of-reverse",
    "the weights between states of the backward direction have no gradient: the loss reads its state at the"
    " last token, which this direction reads first",
    remedy="Read the last states of both directions: torch.cat([h[-2], h[-1]], 1), or average all states.",
)
ZERO_INPUT = Cause(
    "zero-input",
    "the input of its layer is always zero, but the bias next to it has gradient",
    remedy="Check the argument that is passed to the module: zeros may replace a computed value.",
    together=True,
)
DEAD_UNIT = Cause("dead-unit", "a dead unit, a mask, or a neighbouring weight that stays at zero")
BRANCH_AT_ZERO = Cause(
    "branch-at-zero",
    "a factor of zero between all of its trainable weights and its output: a scale such as alpha // rank, a mask, a"
    " gate",
    remedy="Find the zero factor inside the module: an integer division, a mask, a gate.",
)
CANCELS = Cause(
    "rounding-size",
    "its effect cancels: a weight is divided by itself, a softmax has one element, or a factor is almost 0",
)
NO_EFFECT = Cause(
    "no-effect",
    "it cannot change the loss: a bias before a normalisation, of attention keys, or of a critic",
)
_RECURRENT = ("RNN", "GRU", "LSTM")


def _is_open(record: StepRecord, parameter: ParameterRecord) -> bool:
    """Whether it is trainable, and no rule reports its module as a whole."""
    module = record.modules.get(parameter.owner)
    arrived = module is None or module.state == "arrived" or isinstance(module.coverage, Absent)
    return parameter.requires_grad and not parameter.expect_frozen and arrived


def _judge_missing(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    if not _is_open(record, parameter) or parameter.reach.kind != "none" or parameter.assigned:
        return None
    if parameter.remade:
        return REMADE
    return REPLACED_PARAMETER if parameter.replaced else NOT_IN_LOSS


def _judge_zero(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    zero = _is_open(record, parameter) and parameter.reach.kind == "zero"
    if not zero or _cancels(record, parameter):
        return None
    if not _joins_states(record, parameter):
        if _has_only_zeros(record, parameter):
            return BRANCH_AT_ZERO
        alone = _has_trained_bias(record, parameter) and not _follows_dead(record, parameter)
        return ZERO_INPUT if alone else DEAD_UNIT
    backward = any(
        each is parameter and name.endswith("_reverse") for name, each in record.parameters.items()
    )
    return FIRST_STATE_BACK if backward else FIRST_STATE


def _has_trained_bias(record: StepRecord, parameter: ParameterRecord) -> bool:
    """Whether it is the weight of a layer whose bias has gradient everywhere."""
    names = [name for name, each in record.parameters.items() if each is parameter]
    biases = [
        record.parameters.get(f"{name.removesuffix('weight')}bias")
        for name in names
        if name.endswith("weight")
    ]
    return any(each is not None and each.reach.kind == "all" for each in biases)


def _follows_dead(record: StepRecord, parameter: ParameterRecord) -> bool:
    """Whether its module has dead weights, which then explain the zeros that its layer gets."""
    own = (each for each in record.held_by(parameter.owner) if each.requires_grad and each is not parameter)
    return any(each.reach.kind == "zero" and not _has_trained_bias(record, each) for each in own)


def _has_only_zeros(record: StepRecord, parameter: ParameterRecord) -> bool:
    """Whether no parameter of its module has gradient, although gradient comes to the module's output."""
    own = [each for each in record.held_by(parameter.owner) if each.requires_grad] if parameter.owner else []
    return len(own) > 1 and all(each.reach.kind == "zero" and each.largest == 0.0 for each in own)


def _cancels(record: StepRecord, parameter: ParameterRecord) -> bool:
    """Whether a bias has gradient zero although weights of its layer have gradient: their units are not dead.

    The gradients of the samples then cancel exactly, as in the difference of two means of a critic.
    """
    prefixes = {name.removesuffix("bias") for name, each in record.parameters.items() if each is parameter}
    starts = tuple(f"{prefix}{weight}" for prefix in prefixes for weight in _WEIGHTS)
    weights = [each for name, each in record.parameters.items() if name.startswith(starts)]
    return any(each is not parameter and each.reach.kind in ("all", "some") for each in weights)


_WEIGHTS = ("weight", "parametrizations.weight.")
"""How the names of a layer's weights begin, also where a normalisation computes them from others."""


def _joins_states(record: StepRecord, parameter: ParameterRecord) -> bool:
    """Whether it is the weight of a recurrent layer between its states, and the weights of its inputs have gradient."""
    prefix = f"{parameter.owner}.weight_"
    if record.kinds.get(parameter.owner) not in _RECURRENT:
        return False
    names = [name for name, each in record.parameters.items() if each is parameter]
    inputs = [each for name, each in record.parameters.items() if name.startswith(f"{prefix}ih")]
    joins = all(name.startswith(f"{prefix}hh") for name in names)
    return joins and all(each.reach.kind not in ("none", "zero") for each in inputs)


_ROUNDING = 100.0
"""Machine epsilons of a layer's largest gradient below which another gradient in it is rounding alone.

A sum of N terms that cancels leaves about sqrt(N) epsilons of a term, while the layer's other weights receive about
sqrt(N) terms that do not cancel: the ratio is a few epsilons whatever N is, and a normalisation adds a few more.
A hundred leaves room for that, and is still 1.2e-5 in single precision.
"""


def judge_rounding(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    """Whether the gradient is the rounding of a sum that is zero in exact numbers, by the others of its layer."""
    if parameter.reach.kind == "zero" and _is_open(record, parameter) and _cancels(record, parameter):
        return NO_EFFECT
    below = _ROUNDING * parameter.rounding * parameter.layer_size
    rounding = receives(parameter) and parameter.reach.finite is True and parameter.size < below
    return NO_EFFECT if rounding else None


_NOTHING = 10.0
"""Machine epsilons of the largest gradient of the model below which that of a whole layer is rounding. What cancels in
exact numbers, as a weight that is divided by itself, leaves about one; one that only vanishes gets there slowly."""


def find_rounding_layers(record: StepRecord, options: Values) -> Iterator[Observation]:
    """REACH007."""
    largest = largest_of([each.size for each in record.parameters.values()])
    groups: dict[str, list[str]] = {}
    for name, parameter in record.parameters.items():
        whole = receives(parameter) and parameter.reach.finite is True
        if whole and 0.0 < parameter.layer_size < _NOTHING * parameter.rounding * largest:
            groups.setdefault(parameter.owner, []).append(name)
    for owner, names in groups.items():
        message = f"{owner or 'model'}: the gradient of {first_few(names)} is rounding"
        yield Observation(owner, float(len(names)), message, CANCELS)


REACH001 = Rule(
    "REACH001",
    WARNING,
    "Trainable parameters without gradient",
    "parameters",
    "Use them in the loss, or set requires_grad to False.",
    grouped("have no gradient", _judge_missing, notes=(REMADE,)),
    lasting(5),
    causes=(REPLACED_PARAMETER, REMADE, NOT_IN_LOSS, ZERO_AT_START),
    what="Trainable parameters got no gradient in the step, in a module that otherwise trains.",
    why="The loss does not depend on them.",
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
    causes=(DEAD_UNIT, BRANCH_AT_ZERO, ZERO_INPUT, FIRST_STATE, FIRST_STATE_BACK, ZERO_AT_START),
    what="Trainable parameters got a gradient that is zero in every element.",
    why="Only weight decay moves them.",
    example="A ReLU with a bias of -100.",
    false_alarms="LoRA's first matrix while the second is still zero, which ends after the first update; an expert "
    "that no row is routed to for a while.",
    explains=frozenset({"MOVE002"}),
    rank=165,
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
    " largest root mean square of a gradient in the same layer; or a bias has gradient zero, and no weight of its layer"
    " has.",
    why="In exact arithmetic the gradient is zero; the measured gradient is rounding error. SGD does not move the"
    " parameter, Adam moves it at random. MOVE001 does not report it.",
    example="The bias of a convolution before BatchNorm, which subtracts the mean; the bias of the keys of"
    " an attention, which softmax cancels.",
    false_alarms="None known: a gradient that is this small for another reason has next to no effect either.",
)
REACH007 = Rule(
    "REACH007",
    WARNING,
    "The gradient of a layer is only rounding error",
    "parameters",
    "Find the place where its result cancels: do not normalise the weight of a single choice, or use the"
    " weight before the choice.",
    find_rounding_layers,
    lasting(20, why="a layer scale that starts at 1e-6 grows in fewer steps"),
    causes=(CANCELS,),
    what="The gradient of all parameters of a layer is smaller than ten machine epsilons times the largest of the"
    " model.",
    why="A router or a gate seems to train, but Adam moves it at random.",
    example="`weights = weights / weights.sum(-1, keepdim=True)` of the one expert that is chosen.",
    false_alarms="A layer whose gradient truly vanishes.",
    rank=160,
)
FAMILY = Family(50, "Gradients of parameters", (REACH001, REACH002, REACH004, REACH007))

"""Reach: the gradient of single parameters, and of tensors that are not parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator

from diagnostics.causes import ZERO_AT_START, Cause
from diagnostics.records import Absent, Number, ParameterRecord, StepRecord, Stranger
from diagnostics.records.columns import largest_of
from diagnostics.rules.options import Values
from diagnostics.rules.parameter_checks import first_few, grouped, receives
from diagnostics.rules.rule import CRITICAL, NOTE, UNTRAINED, WARNING, Family, Observation, Rule, lasting

REPLACED_PARAMETER = Cause(
    "replaced-parameter",
    "the model holds another tensor instead, because the parameter was replaced after the monitor was made",
    remedy="Make the monitor and the optimiser after parameters are replaced.",
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
OVERFLOW_IN_OUTPUT = Cause(
    "overflow-in-output",
    "overflow, division by zero or the logarithm of zero: the output of {module} is the first that is not finite",
)
OVERFLOW_ELSEWHERE = Cause(
    "overflow-elsewhere",
    "overflow, division by zero or the logarithm of zero, after the last watched module or in the backward pass:"
    " all outputs are finite",
)
OVERFLOW_IN_LOSS = Cause(
    "overflow-in-loss",
    "the loss: all outputs are finite, but the gradient that returns to {module}, the last module before the"
    " loss, is not",
)
OVERFLOW_AFTER = Cause(
    "overflow-after",
    "the backward pass of the operations that use the output of {module}: all outputs are finite, but the"
    " gradient that returns to them is not. where() does not help: the branch that is not taken gives 0 times"
    " infinity",
    remedy="Change the input of the operation, not its result: x.where(safe, 1) before sqrt(), log() or a division.",
)
OVERFLOW_INSIDE = Cause(
    "overflow-inside",
    "the backward pass inside {module}: its outputs and the gradients that return to them are finite",
)
DIVERGED = Cause(
    "diverged-rate",
    "divergence: gradients grew to {largest:.1g} before; the learning rate is too high, or nothing bounds the updates",
    remedy="Reduce the learning rate, warm it up, and clip the norm of the gradients.",
)
OVERFLOW_IN_OPERATION = Cause(
    "overflow-in-operation",
    "{phase} pass: {operation} gives the first number that is not finite",
    remedy="Guard that operation: an eps before log(), sqrt() and a division, the largest number subtracted before"
    " exp(). Lower the learning rate if earlier steps were finite.",
)
OVERFLOW = Cause("overflow", "overflow, division by zero or the logarithm of zero, in forward or backward")
CANCELS = Cause(
    "rounding-size",
    "its effect cancels: a weight is divided by itself, a softmax has one element, or a factor is almost 0",
)
EPS_UNDERFLOW = Cause(
    "eps-underflow",
    "the optimiser's eps of {eps:g} is 0 in half precision, so it divides by zero if a squared gradient underflows",
    remedy="Keep the weights in single precision and use autocast, or raise eps to 1e-4.",
)
UPDATE_TOO_LARGE = Cause(
    "update-too-large", "the optimiser: its rate or its state is too large for the type of the weights"
)
WRITTEN_NOT_FINITE = Cause(
    "written-not-finite",
    "an average or a loading writes them outside the optimiser",
    remedy="Find the code that writes them.",
)
NO_EFFECT = Cause(
    "no-effect",
    "it cannot change the loss: a bias before a normalisation, of attention keys, or of a critic",
)
UNREGISTERED_LAYERS = Cause(
    "unregistered-layers",
    "layers in a plain list, dictionary or other object, which does not register them",
)
PLAIN_TENSOR = Cause(
    "plain-tensor", "a tensor with requires_grad was set as an attribute, without nn.Parameter"
)
NOT_A_PARAMETER = Cause(
    "not-a-parameter",
    "{names} holds the result of an operation on a parameter, as float(), to() or a product after nn.Parameter()",
    remedy="Compute the initial value first, and make the result the parameter: nn.Parameter(start.float()).",
)
NOT_IN_MODEL = Cause(
    "not-in-model", "no module of the model holds them: they should replace layers that are still there"
)
MADE_IN_FORWARD = Cause(
    "made-in-forward",
    "forward() makes a layer, so each call has a new one, which nothing trains",
    remedy="Make the layer in __init__().",
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
    return REPLACED_PARAMETER if parameter.replaced else NOT_IN_LOSS


def _judge_zero(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    zero = _is_open(record, parameter) and parameter.reach.kind == "zero"
    if not zero or _cancels(record, parameter):
        return None
    if not _joins_states(record, parameter):
        if _has_only_zeros(record, parameter):
            return BRANCH_AT_ZERO
        return ZERO_INPUT if _has_trained_bias(record, parameter) else DEAD_UNIT
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


def find_not_finite(record: StepRecord, options: Values) -> Iterator[Observation]:
    """REACH003; one observation in the module where the first number arose, if it is known: all others follow."""
    broken = [name for name, each in record.parameters.items() if each.reach.finite is False and each.changed]
    if not broken:
        return
    cause = _cause_not_finite(record)
    hash(cause)  # steps with other facts are judged apart
    owners = {record.parameters[name].owner for name in broken}
    place = dict(cause.facts).get("module", owners.pop() if len(owners) == 1 else "")
    place = "" if cause.code == OVERFLOW_IN_LOSS.code else place
    message = (
        f"model: {len(broken)} of {len(record.parameters)} parameters have a gradient that is not finite"
        f" ({first_few(broken)})"
    )
    yield Observation(str(place), float(len(broken)), message, cause, key=cause)


_RUNAWAY = 1e8
"""Norm of a gradient that only growth over many steps reaches: a single operation that fails gives NaN at once."""


def _cause_not_finite(record: StepRecord) -> Cause:
    """Where the first number of a step that is not finite arose, as far as the watched modules show."""
    largest = max((each.largest for each in record.parameters.values()), default=0.0)
    if largest > _RUNAWAY:
        return DIVERGED.of(largest=largest)
    for name in record.order:
        stats = record.modules[name].output
        if not isinstance(stats, Absent) and not math.isfinite(stats.rms):
            return OVERFLOW_IN_OUTPUT.of(module=name)
    hit = {name for name, module in record.modules.items() if _is_broken(module.gradient_max)}
    last = next((name for name in reversed(record.order) if name in hit), None)
    readers = [name for name, sources in record.into.items() if last in sources and name != last]
    if last is None:
        broken = [each.owner for each in record.parameters.values() if each.reach.finite is False]
        inside = next((name for name in reversed(record.order) if name in broken), None)
        if inside is None or isinstance(record.modules[inside].gradient_max, Absent):
            return OVERFLOW_ELSEWHERE  # what came back to it is not known
        return OVERFLOW_INSIDE.of(module=inside)
    inside = next((name for name in readers if _has_broken(record, name)), None)
    if inside is not None:
        return OVERFLOW_INSIDE.of(module=inside)
    return OVERFLOW_AFTER.of(module=last) if readers else OVERFLOW_IN_LOSS.of(module=last)


def _is_broken(size: Number) -> bool:
    return not isinstance(size, Absent) and not math.isfinite(size)


def _has_broken(record: StepRecord, module: str) -> bool:
    return any(each.reach.finite is False for each in record.held_by(module))


_HALF = 5e-4  # half precision has an epsilon of 1e-3, bfloat16 of 8e-3, single precision of 1e-7


def _judge_update(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    """Finite gradients, and weights that are not finite after the step."""
    if not parameter.broken or parameter.reach.finite is not True:
        return None
    place = parameter.place
    if isinstance(place, Absent) or not place.stepped:
        return WRITTEN_NOT_FINITE
    underflow = not isinstance(place.eps, Absent) and 0.0 < place.eps < parameter.rounding**2
    half = parameter.rounding > _HALF
    return EPS_UNDERFLOW.of(eps=place.eps) if half and underflow else UPDATE_TOO_LARGE


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


def find_idle(record: StepRecord, options: Values) -> Iterator[Observation]:
    """REACH008; a parameter with gradient that is in no optimiser is the other side of the same fault: MOVE001."""
    forgotten = any(
        receives(each) and isinstance(each.place, Absent) and each.place.code == "in-no-group"
        for each in record.parameters.values()
    )
    if record.idle and not forgotten:
        message = f"model: {record.idle} tensors that an optimiser holds are not in it, and have no gradient"
        yield Observation("", float(record.idle), message, NOT_IN_MODEL)


def find_unregistered(record: StepRecord, options: Values) -> Iterator[Observation]:
    """REACH005; needs the optimisers, which might hold such a tensor."""
    groups: dict[tuple[str, Cause], list[str]] = {}
    for stranger in record.strangers if record.optimizers else ():
        shape = "x".join(map(str, stranger.shape)) or "a scalar"
        groups.setdefault((stranger.module, _cause_of(stranger)), []).append(shape)
    for (name, cause), shapes in groups.items():
        message = (
            f"{name or 'model'}: {len(shapes)} tensors that are not its parameters receive gradient"
            f" ({first_few(shapes)})"
        )
        yield Observation(name, float(len(shapes)), message, cause, key=cause)


def _cause_of(stranger: Stranger) -> Cause:
    if stranger.derived:
        return NOT_A_PARAMETER.of(names=", ".join(stranger.derived))
    if stranger.remade:
        return MADE_IN_FORWARD
    return UNREGISTERED_LAYERS if stranger.layer else PLAIN_TENSOR


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
    false_alarms="LoRA's first matrix while the second is still zero, which ends after the first update.",
    explains=frozenset({"MOVE002"}),
    rank=165,
)
REACH003 = Rule(
    "REACH003",
    CRITICAL,
    "A gradient that is not finite was applied",
    "parameters",
    "Find the operation with torch.autograd.detect_anomaly(), clip or skip such steps, and resume from a checkpoint.",
    find_not_finite,
    lasting(1, why="one applied step is enough to destroy the weights"),
    causes=(
        OVERFLOW_IN_OUTPUT,
        OVERFLOW_ELSEWHERE,
        OVERFLOW_IN_LOSS,
        OVERFLOW_AFTER,
        OVERFLOW_INSIDE,
        OVERFLOW_IN_OPERATION,
        DIVERGED,
        OVERFLOW,
    ),
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
    " largest root mean square of a gradient in the same layer; or a bias has gradient zero, and no weight of its layer"
    " has.",
    why="In exact arithmetic the gradient is zero; the measured gradient is rounding error. SGD does not move the"
    " parameter, Adam moves it at random. MOVE001 does not report it.",
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
    causes=(UNREGISTERED_LAYERS, PLAIN_TENSOR, NOT_A_PARAMETER, MADE_IN_FORWARD),
    what="In the first two recorded steps, the same tensor, or another parameter in its place, received gradient"
    " between inputs and outputs, but neither `model.parameters()` nor an optimiser holds it.",
    why="It looks trained, but no optimiser moves it, no checkpoint holds it, and `model.to(device)` does not move it.",
    example="`self.scale = torch.ones(16, requires_grad=True)`; `self.layers = [nn.Linear(16, 16), ...]`.",
    false_alarms="A tensor that the loop changes by hand, such as an adversarial perturbation.",
)
REACH006 = Rule(
    "REACH006",
    CRITICAL,
    "The update makes weights that are not finite",
    "parameters",
    "Reduce the learning rate, or use a type with more range.",
    grouped("become infinite or NaN from finite gradients", _judge_update),
    lasting(1, why="one step is enough to destroy the weights"),
    causes=(EPS_UNDERFLOW, UPDATE_TOO_LARGE, WRITTEN_NOT_FINITE),
    what="The gradient of a parameter is finite, and after the step the parameter is not.",
    why="Every later output is NaN, and looks like a fault of the model.",
    example="Adam on weights in half precision: its eps of 1e-8 is 0 there.",
    false_alarms="None known.",
    explains=UNTRAINED | {"GRAD001", "MOVE001", "COLLAPSE001", "SPIKE001", "DRIFT001", "REACH003"},
    irreversible=True,
    rank=9,
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
REACH008 = Rule(
    "REACH008",
    WARNING,
    "An optimiser holds weights that the model does not use",
    "tensors",
    "Set the new layers as attributes of the modules that use them: setattr(parent, name, layer).",
    find_idle,
    lasting(10, why="a part that is trained in every second step has gradient before"),
    needs_optimizer=True,
    causes=(NOT_IN_MODEL,),
    what="An optimiser holds all weights that the model trains, and also tensors outside of the model that have no"
    " gradient when it steps.",
    why="Layers that should replace others, such as adapters, were never inserted into the model.",
    example="`for module in model.modules(): module = Adapter(module)`, which changes a variable alone.",
    false_alarms="An optimiser of several models, of which the others wait.",
)
FAMILY = Family(
    50,
    "Gradients of parameters",
    (REACH001, REACH002, REACH003, REACH004, REACH005, REACH006, REACH007, REACH008),
)

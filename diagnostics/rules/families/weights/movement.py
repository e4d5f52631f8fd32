"""Movement: parameters that should move and do not, and parameters that move without a gradient."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.records import Absent, OptimizerPlace, ParameterRecord, StepRecord
from diagnostics.rules.families.gradients.reach import judge_rounding
from diagnostics.rules.options import Option, Values
from diagnostics.rules.parameter_checks import grouped, receives
from diagnostics.rules.rule import CRITICAL, WARNING, Family, Observation, Rule, lasting
from diagnostics.selection import has_role

IN_NO_GROUP = Cause(
    "in-no-group",
    "it is in no group of the optimisers",
    remedy="Give the parameters to the optimiser; make the optimiser after layers are added or replaced.",
)
TARGET_WITH_GRAPH = Cause(
    "target-with-graph",
    "its name says that it is a target, it is a copy of {source}, which is trained, and its result has a graph",
    remedy="Call it under torch.no_grad(), or detach() its result.",
)
ZERO_RATE = Cause(
    "zero-rate",
    "the learning rate of its group is 0",
    remedy="Give their group a learning rate above 0.",
)
CLEARED_GRADIENT = Cause(
    "cleared-gradient",
    "its gradient was cleared between the backward pass and the optimiser's step",
    remedy="Call zero_grad() before backward() or after optimizer.step(), not between them.",
)
READ_ALONE = Cause(
    "read-alone",
    "torch.autograd.grad() read its gradient, but no backward pass wrote one: the loss does not depend on it,"
    " for instance because adapted weights are detached from the original weights",
    remedy="Keep the graph: create_graph=True, and no detach() or .data on the adapted weights.",
)
SET_BACK = Cause(
    "set-back",
    "its weights were set back after the optimiser's step",
    remedy="Do not write the weights after optimizer.step().",
)
RATE_TOO_SMALL = Cause(
    "rate-too-small",
    "the learning rate of its group is below 1e-7, too small to change a bit: set so, or a scheduler reduced it",
    remedy="Raise the rate; step a scheduler that counts epochs once per epoch, not per batch.",
)
ROUNDED_OR_SET_BACK = Cause(
    "rounded-or-set-back",
    "the optimiser stepped but changed no bit of it: the update is below rounding, or the weights were set back",
    remedy="Keep weights in single precision or raise the learning rate; do not write them after optimizer.step().",
)
NO_GRADIENT = Cause(
    "no-gradient",
    "it receives no gradient",
    remedy="Let the loss use its output as a tensor, inside enabled gradients; see `assert_all_params_receive_grad`.",
)
ZERO_GRADIENT = Cause(
    "zero-gradient",
    "its gradient is all zero",
    remedy="Find the factor of zero, the dead unit or the mask between it and the loss.",
)
SKIPPED_STEP = Cause(
    "skipped-step",
    "its gradient is not finite, and the step may have been skipped",
    remedy="Find the operation that overflows, divides by zero or takes the logarithm of zero.",
)
NO_UPDATE = Cause(
    "no-update",
    "no trainable parameter was updated",
    remedy="Call backward() and optimizer.step() in the training step, with a learning rate above 0.",
)
NO_PASS = Cause(
    "no-gradient-anywhere",
    "no parameter received a gradient: backward() is not called, or the loss has no graph",
    remedy="Call loss.backward() in the training step, before optimizer.step().",
)
NO_STEP_INSIDE = Cause("no-step-inside", "its optimiser never stepped inside the monitored step")
BELOW_EPS = Cause(
    "below-eps",
    "clipping or division after the backward pass leaves a gradient below the optimiser's eps of {eps:g}",
)
BELOW_ROUNDING = Cause(
    "below-rounding",
    "clipping or division after the backward pass leaves a gradient that moves the weights by less than their"
    " rounding",
)
OVERWRITTEN = Cause(
    "overwritten", "weights are written after the optimiser's step, with an average (EMA) or an older copy"
)
WEIGHT_DECAY = Cause(
    "weight-decay",
    "weight decay: its gradient is zero, and group {group} decays its weights",
    remedy="Take them out of the optimiser, set its weight_decay to 0, or set .grad to None instead of zero.",
)
OPTIMIZER_STATE = Cause(
    "optimizer-state",
    "optimiser state: its gradient is zero, and earlier momentum moves it",
    remedy="Take them out of the optimiser, or set .grad to None: a zero gradient lets earlier momentum move them.",
)
STALE_GRADIENT = Cause(
    "stale-gradient",
    "stale gradients: .grad holds a gradient of an earlier step, which the optimiser applies",
    remedy="Clear the gradients of all parameters in each step, with zero_grad(set_to_none=True).",
)
STALE_GRADIENT_FROZEN = Cause(
    "stale-gradient-frozen",
    "stale gradients: the optimiser applies a gradient of an earlier step, although requires_grad is False",
    remedy="Set .grad to None where requires_grad is set to False, and take them out of the optimiser.",
)
TRAINED = Cause(
    "trained",
    "training: it receives gradient and the optimiser applies it",
    remedy="Set requires_grad to False, and take them out of the optimiser.",
)
TRAINED_ELSEWHERE = Cause("trained-elsewhere", "training: it receives gradient")
OUTSIDE_OPTIMIZER = Cause(
    "outside-optimizer",
    "outside the optimiser: assigned or copied in place (EMA, loading), or another optimiser",
    remedy="Find the code that writes them: an average (EMA), a copy, loading, or an optimiser that the monitor does"
    " not know.",
)
AVERAGED = Cause(
    "averaged",
    "written outside every optimiser, and no gradient is meant for it: an average (EMA) or a target network",
)
MOMENTUM = Cause(
    "momentum", "momentum: the gradient of the loss is zero for it in this step, but was not zero before"
)
CONVERGED = Cause(
    "converged",
    "the optimiser has converged and no longer moves it: LBFGS stops by itself, or the gradient is less than"
    " a thousandth of its earlier size",
)
CLIPPED_SCALED = Cause(
    "clipped-scaled",
    "clipping before unscaling: the gradient still contained the scale {scale:g} of the GradScaler when it"
    " was clipped, and was divided by it afterwards",
)
SCALER_SKIPS = Cause(
    "scaler-skips",
    "a GradScaler skips every step, because each has a gradient that is not finite: the first is that of"
    " {parameter}",
)
MOVERS = (
    WEIGHT_DECAY,
    OPTIMIZER_STATE,
    STALE_GRADIENT,
    STALE_GRADIENT_FROZEN,
    OUTSIDE_OPTIMIZER,
    AVERAGED,
    MOMENTUM,
)
"""What moves a parameter without a gradient of the step."""


def _stands(parameter: ParameterRecord) -> bool:
    return receives(parameter) and not parameter.changed


_CLIPPED = 0.1
"""Share of the gradient's norm below which it counts as made small on the way to the optimiser: clipping that cuts
off nine tenths on every step is no longer clipping."""


_SCALED = 0.01
"""The same after the GradScaler has divided by its scale: clipping at a norm of 1 that the scale multiplied a
thousandfold and more leaves less than this, and clipping that works leaves more on most steps."""


def _judge_lost(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    """At a gradient of `eps` Adam's step is half of what it would be; a change below epsilon, relative, is lost."""
    place, norm = parameter.place, parameter.reach.norm
    if not receives(parameter) or isinstance(place, Absent) or isinstance(norm, Absent):
        return None
    if isinstance(place.norm, Absent) or isinstance(place.eps, Absent) or place.gradient != "nonzero":
        return None
    if place.lr == 0.0 or place.norm >= _CLIPPED * norm:
        return None
    if place.scale != 1.0:
        scaled = place.norm * place.scale < _SCALED * norm
        return CLIPPED_SCALED.of(scale=place.scale) if scaled else None
    share = parameter.reach.nonzero
    live = parameter.numel * (1.0 if isinstance(share, Absent) else share)
    if place.eps and place.norm < place.eps * live**0.5:
        return BELOW_EPS.of(eps=place.eps)
    if not place.eps and parameter.update_norm < max(parameter.rounding, _NO_CHANGE) * parameter.weight_norm:
        return BELOW_ROUNDING
    return None


_NO_CHANGE = 1e-6
"""Relative change with which a run of a million steps ends where it began, as far as it is clipped."""
_SMALL_RATE = 1e-7
"""Rate below which a step of Adam changes no weight of size 1 in single precision."""
_FALLEN = 1e-3
"""Share of its largest gradient at which a parameter that stands still has arrived: the loss is flat to a millionth
in its direction."""


def _judge_still(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    place = parameter.place
    if not _stands(parameter):
        return None
    if isinstance(place, Absent):
        return _judge_outside(record, parameter.owner) if record.optimizers else None
    if not place.stepped:
        return None  # MOVE003
    if place.lr == 0.0:
        return ZERO_RATE
    if judge_rounding(record, parameter) or _judge_lost(record, parameter):
        return None  # REACH004, MOVE004
    if place.gradient != "nonzero":
        if _has_none_of_its_own(record, parameter, place):
            return None
        return READ_ALONE if parameter.read else CLEARED_GRADIENT
    fallen = not isinstance(place.norm, Absent) and place.norm < _FALLEN * parameter.largest
    if parameter.kept != 0.0 and (fallen or place.stops_itself):
        return CONVERGED
    if parameter.kept == 0.0:
        return SET_BACK
    if not isinstance(place.lr, Absent) and place.lr < _SMALL_RATE:
        return RATE_TOO_SMALL
    return ROUNDED_OR_SET_BACK


def _judge_outside(record: StepRecord, module: str) -> Cause:
    """Why a module that no optimiser holds has a gradient: it is a target, or was left out by mistake."""
    source = record.copies.get(module, "")
    trained = any(
        not isinstance(each.place, Absent) and each.place.gradient == "nonzero"
        for each in record.held_by(source)
    )
    follows = bool(source) and trained and has_role(module, others=[source])
    return TARGET_WITH_GRAPH.of(source=source) if follows else IN_NO_GROUP


def _has_none_of_its_own(record: StepRecord, parameter: ParameterRecord, place: OptimizerPlace) -> bool:
    """Whether its optimiser found zeros for it, and gradient for others of its module.

    Then nothing was cleared: the loss of this optimiser is flat in its direction, as the difference of two means of a
    critic is in the bias of its last layer, and another loss brought what it receives.
    """
    others = (each.place for each in record.held_by(parameter.owner))
    return place.gradient == "zero" and any(
        not isinstance(other, Absent) and other.optimizer == place.optimizer and other.gradient == "nonzero"
        for other in others
    )


def find_undone_updates(record: StepRecord, options: Values) -> Iterator[Observation]:
    """MOVE005: weights that are written after the optimiser's step, so that little of it stays."""

    def judge(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
        kept = parameter.kept
        lost = not isinstance(kept, Absent) and 0.0 < kept < options["below"]  # an average leaves a share
        return OVERWRITTEN if lost and receives(parameter) and parameter.changed else None

    yield from grouped("keep next to nothing of the optimiser's update", judge)(record, options)


def _judge_unstepped(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    place = parameter.place
    skipped = _stands(parameter) and not isinstance(place, Absent) and not place.stepped
    if not skipped:
        return None
    broken = [(name, each.owner) for name, each in record.parameters.items() if each.reach.finite is False]
    if not broken:
        return NO_STEP_INSIDE
    # the backward pass comes to the modules in reverse
    position = {name: number for number, name in enumerate(record.order)}
    first, _ = max(broken, key=lambda each: position.get(each[1], -1))
    return SCALER_SKIPS.of(parameter=first)


def _judge_unexplained(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    if parameter.expect_frozen or not parameter.changed or record.is_declared_target(parameter.owner):
        return None
    cause = movement_cause(parameter)
    if (
        cause in (TRAINED, TRAINED_ELSEWHERE)
        or record.changed_by_hand()
        or judge_rounding(record, parameter) is not None
    ):
        return None  # what cannot change the loss may decay
    return cause


def movement_cause(parameter: ParameterRecord) -> Cause:
    """What moved a parameter in this step, inferred from its gradient at the optimiser and its group."""
    place = parameter.place
    if isinstance(place, Absent):
        if parameter.reach.kind in ("some", "all") or parameter.assigned:
            return TRAINED_ELSEWHERE
        return AVERAGED if place.code == "in-no-group" and not parameter.expect_frozen else OUTSIDE_OPTIMIZER
    if not place.stepped or place.gradient == "none":
        frozen = not parameter.requires_grad and not parameter.expect_frozen
        return AVERAGED if frozen and place.stepped else OUTSIDE_OPTIMIZER
    if place.gradient == "zero":
        decay = place.weight_decay
        if parameter.reach.kind == "zero" and parameter.largest > 0.0:
            return MOMENTUM
        if isinstance(decay, Absent) or decay > 0.0:
            return WEIGHT_DECAY.of(group=place.group)
        return OPTIMIZER_STATE
    if parameter.stale:
        return STALE_GRADIENT if parameter.requires_grad else STALE_GRADIENT_FROZEN
    return TRAINED


MOVE001 = Rule(
    "MOVE001",
    CRITICAL,
    "Gradient without movement",
    "parameters",
    "Put the parameters in a group of the optimiser with a learning rate above 0.",
    grouped("receive gradient and do not move", _judge_still, notes=(CONVERGED,)),
    lasting(
        5,
        why="a warm-up may begin with a rate of 0, and a GradScaler skips its first steps",
    ),
    needs_optimizer=True,
    of_updates=True,
    causes=(
        IN_NO_GROUP,
        TARGET_WITH_GRAPH,
        ZERO_RATE,
        CLEARED_GRADIENT,
        READ_ALONE,
        SET_BACK,
        ROUNDED_OR_SET_BACK,
        RATE_TOO_SMALL,
        NO_GRADIENT,
        ZERO_GRADIENT,
        SKIPPED_STEP,
        NO_UPDATE,
        NO_PASS,
        CONVERGED,
    ),
    what="Parameters receive gradient but not one bit of them changes, although their optimiser steps, or they are"
    " in no optimiser. REACH004 and MOVE004 report gradients that are only rounding, or that are lost before"
    " the update.",
    why="They are meant to train but do not.",
    example="The optimiser was made before the head was replaced.",
    false_alarms="Updates below the rounding of bfloat16 weights: true, and worth knowing.",
    rank=120,
)
MOVE002 = Rule(
    "MOVE002",
    WARNING,
    "Movement without gradient",
    "parameters",
    "Take them out of the optimiser, or set .grad to None, if they must not move.",
    grouped("move without a gradient of this step", _judge_unexplained, notes=(AVERAGED, MOMENTUM)),
    lasting(5),
    causes=MOVERS,
    what="Parameters change in a step that gave them no gradient.",
    why="Weights that look untrained are shrinking, or an old gradient is applied again.",
    example="`p.grad.zero_()` instead of `p.grad = None`, with AdamW.",
    false_alarms="An embedding table with weight decay, on steps in which it is not used.",
    rank=190,
)
MOVE003 = Rule(
    "MOVE003",
    CRITICAL,
    "The optimiser never steps",
    "parameters",
    "Call optimizer.step() inside the monitored step, on the optimiser given to the monitor.",
    grouped("receive gradient and do not move", _judge_unstepped),
    lasting(20, why="micro-steps of gradient accumulation do not step either; 20 is more than usual"),
    needs_optimizer=True,
    causes=(NO_STEP_INSIDE, SCALER_SKIPS),
    what="Parameters receive gradient and their optimiser did not step.",
    why="Nothing trains.",
    example="A scheduler is stepped where the optimiser should be.",
    false_alarms="Gradient accumulation over more than twenty monitored micro-steps: put the whole"
    " accumulation into one step.",
    explains=frozenset({"MOVE001", "GRAD007"}),
    rank=110,
)
MOVE004 = Rule(
    "MOVE004",
    WARNING,
    "The gradient is lost before the update",
    "parameters",
    "Clip at a norm that the gradient usually has, and do not divide it afterwards.",
    grouped("move by next to nothing", _judge_lost),
    lasting(20, why="a few exploding steps that are rightly clipped must not count"),
    needs_optimizer=True,
    of_updates=True,
    causes=(BELOW_EPS, BELOW_ROUNDING, CLIPPED_SCALED),
    what="The optimiser receives less than a tenth of the gradient norm that the backward pass left, and this is"
    " too small to have an effect: per element below its `eps`, or, without `eps`, an update below a"
    " millionth of the weights. With a GradScaler: less than a hundredth of the unscaled norm.",
    why="Adam ignores the size of a gradient until `eps` outweighs it. Norms before clipping look healthy.",
    example="`clip_grad_norm_(parameters, 1e-9)`; gradients divided by the number of tokens after the loss was.",
    false_alarms="The end of a half-precision run whose loss is almost zero.",
    rank=130,
)
MOVE005 = Rule(
    "MOVE005",
    WARNING,
    "The update is undone",
    "parameters",
    "Keep the average, or the older copy, apart from the trained weights, and swap it in only for evaluation.",
    find_undone_updates,
    {
        "below": Option(
            0.1,
            0.0,
            1.0,
            "share of the change that must be left",
            why="projections by design keep most of an update, an average with a decay of 0.99 keeps a hundredth",
        ),
        **lasting(5, why="an average that is swapped in every few steps must not count"),
    },
    needs_optimizer=True,
    of_updates=True,
    causes=(OVERWRITTEN,),
    what="At the end of the step less than a tenth of the optimiser's change is left, measured on those of the first"
    " 64 numbers of a parameter that were not put back exactly. If nothing is left, MOVE001 reports it.",
    why="The loss falls as slowly as with a tiny learning rate, and neither gradients nor rates show it.",
    example="An average (EMA), or an older copy, is loaded into the trained weights after each update.",
    false_alarms="Weights that are projected onto a small set after each update, such as a narrow range.",
)
FAMILY = Family(60, "Updates of parameters", (MOVE001, MOVE002, MOVE003, MOVE004, MOVE005))

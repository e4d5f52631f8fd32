"""Target networks: they must lag behind their source, by their own movement alone."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.findings import Severity
from diagnostics.records import Absent, ParameterRecord, StepRecord, TargetRecord
from diagnostics.rules.options import Values
from diagnostics.rules.rule import CRITICAL, NOTE, WARNING, Family, Observation, Rule, lasting

TRAINED_TARGET = Cause(
    "target-trained",
    "an optimiser updates it with a gradient",
    remedy="Compute it under torch.no_grad(), and leave its parameters out of the optimiser.",
)
MOVES_AWAY = Cause(
    "moves-away",
    "its update leads away from the source: the factors of the average are swapped, or it follows another module",
)
NO_LAG = Cause(
    "no-lag",
    "it is almost equal to the source in every step: the whole network is copied each time, or the factors of"
    " the average are swapped",
)
ROUNDED = Cause(
    "rounded-away",
    "{stuck:.0%} of its numbers that differ from the source do not change in a step that writes to them: in"
    " half precision the change is rounded away",
    remedy="Keep the average in single precision.",
)
OLD_STATISTICS = Cause(
    "buffers-not-copied",
    "its weights follow the source, but its buffers, such as running statistics, keep their initial values",
    remedy="Copy the buffers too: for old, new in zip(target.buffers(), source.buffers()): old.copy_(new).",
)
STANDS_STILL = Cause("stands-still", "no recorded step has written to it")
SET_BACK_TO_IT = Cause(
    "copied-backwards",
    "the model is set back to it again and again, but nothing writes to it: the copy has the wrong direction",
    remedy="Copy the model into it: target.load_state_dict(model.state_dict()).",
)
EVALUATED_STILL = Cause(
    "evaluated-as-at-start",
    "the program evaluates it, but it still has its initial weights: nothing wrote to it while the model was"
    " trained",
    remedy="Update the average after each step of the optimiser.",
)


def find_bad_targets(record: StepRecord, options: Values) -> Iterator[Observation]:
    """TARGET001."""
    for target in record.targets:
        found = _judge(record, target)
        if found is not None:
            cause, severity = found
            message = f"{target.name}: {{value}} away from {target.source}, relative to its norm"
            yield Observation(target.name, target.gap, message, cause, key=cause.code, severity=severity)


def _judge(record: StepRecord, target: TargetRecord) -> tuple[Cause, Severity] | None:
    if target.name in {name for names in record.aliases.values() for name in names} | record.aliases.keys():
        return None  # SHARE003
    unfaithful = _judge_copying(record, target)
    if unfaithful is not None:
        return unfaithful
    own = record.held_by(target.name)
    if target.declared and any(map(_is_trained, own)):
        return TRAINED_TARGET, CRITICAL
    if not target.declared:
        return _judge_undeclared(record, target)
    if target.moved == 0.0:
        return (STANDS_STILL, NOTE) if target.gap > 0.0 else None
    if _has_no_lag(target):
        return NO_LAG, WARNING
    if not isinstance(target.towards, Absent) and target.towards <= 0.0:
        return MOVES_AWAY, CRITICAL
    return None


_STUCK = 0.5
"""Share of the numbers from which it is no matter of those that are nearly equal."""


def _judge_copying(record: StepRecord, target: TargetRecord) -> tuple[Cause, Severity] | None:
    """What is lost on the way from the source to a target that the step writes to, outside of the optimisers."""
    if any(map(_is_trained, record.held_by(target.name))):
        return None
    if not isinstance(target.stuck, Absent) and target.stuck > _STUCK:
        return ROUNDED.of(stuck=target.stuck), WARNING
    moved = [target.buffers_moved, target.source_buffers_moved]
    if target.moved > 0.0 and moved[0] == 0.0 and not isinstance(moved[1], Absent) and moved[1] > 0.0:
        module = record.modules.get(target.name)
        used = module is not None and module.calls_total > 0
        return OLD_STATISTICS, WARNING if used else NOTE
    return None


_LAG = 0.05
"""Distance to the source, relative to the change of the source in one step: averages keep at least half, and after
the copy of a whole network nothing is left."""


def _has_no_lag(target: TargetRecord) -> bool:
    lag = 0.0 if isinstance(target.lag, Absent) else target.lag
    return target.gap == 0.0 or (not isinstance(target.lag, Absent) and target.moved > 0.0 and lag < _LAG)


def _judge_undeclared(record: StepRecord, target: TargetRecord) -> tuple[Cause, Severity] | None:
    """A module that is called a target is one if it is written outside of the optimisers, and its source is not."""
    own, source = record.held_by(target.name), record.held_by(target.source)
    if not own or not any(map(_is_trained, source)):
        return None
    written = [each.kept for each in own if not isinstance(each.kept, Absent)]
    apart = all(each.kept == 1.0 for each in source if _is_trained(each))
    if all(map(_is_trained, own)) and len(written) == len(own) and 1.0 not in written and apart:
        return TRAINED_TARGET, CRITICAL
    loose = all(isinstance(each.place, Absent) for each in own)
    return (NO_LAG, WARNING) if loose and target.moved > 0.0 and _has_no_lag(target) else None


def _is_trained(parameter: ParameterRecord) -> bool:
    """Whether an optimiser steps with a gradient of it."""
    place = parameter.place
    return not isinstance(place, Absent) and place.gradient == "nonzero"


TARGET001 = Rule(
    "TARGET001",
    CRITICAL,
    "A target network does not follow its source",
    "target_gap",
    "Update it as target = decay * target + (1 - decay) * source, after the optimiser's step.",
    find_bad_targets,
    lasting(5),
    causes=(
        TRAINED_TARGET,
        MOVES_AWAY,
        NO_LAG,
        ROUNDED,
        OLD_STATISTICS,
        STANDS_STILL,
        EVALUATED_STILL,
        SET_BACK_TO_IT,
    ),
    what="A module that `targets` declares is trained, moves away from its source, equals its source in each step,"
    " loses its changes in half precision, or keeps its initial buffers (these are warnings; the last is a"
    " note if no step calls the module). Undeclared modules named target, teacher, ema and the like are"
    " judged if they are written outside the optimisers and a module of the same shapes exists. In a script:"
    " every copy of the model that exists before the first update and that no optimiser holds.",
    why="The targets of the loss move with the predictions, or mean nothing.",
    example="`target.lerp_(source, 0.99)` where 0.01 was meant gives next to no lag.",
    false_alarms="A target that is copied every thousand steps stands still in between: it is a note.",
    explains=frozenset({"MOVE002", "MOVE005"}),
    rank=16,
)
FAMILY = Family(93, "Frozen, shared and target weights", (TARGET001,))

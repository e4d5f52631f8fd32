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
    "its update leads away from the source: the factors of the average are swapped, or it follows something else",
)
NO_LAG = Cause(
    "no-lag",
    "it is as good as equal to the source in every step: the whole network is copied each time, or the factors of the"
    " average are swapped",
)
STANDS_STILL = Cause("stands-still", "nothing has written to it in the recorded steps")


def find_bad_targets(record: StepRecord, options: Values) -> Iterator[Observation]:
    """TARGET001."""
    for target in record.targets:
        found = _judge(record, target)
        if found is not None:
            cause, severity = found
            message = f"{target.name}: {{value}} away from {target.source}, relative to its norm"
            yield Observation(target.name, target.gap, message, cause, key=cause, severity=severity)


def _judge(record: StepRecord, target: TargetRecord) -> tuple[Cause, Severity] | None:
    if target.name in {name for names in record.aliases.values() for name in names} | record.aliases.keys():
        return None  # SHARE003
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
    causes=(TRAINED_TARGET, MOVES_AWAY, NO_LAG, STANDS_STILL),
    what="A module that `targets` declares is trained by an optimiser, moves away from its source, or is equal to it"
    " in each step (a warning). Undeclared modules called target, teacher, ema and the like are judged where they are"
    " written outside the optimisers, and stand next to one of the same shapes.",
    why="The targets of the loss move with the predictions, or mean nothing.",
    example="`target.lerp_(source, 0.99)` where 0.01 was meant gives next to no lag.",
    false_alarms="A target that is copied every thousand steps stands still in between: it is a note.",
    explains=frozenset({"MOVE002", "MOVE005"}),
    rank=16,
)
FAMILY = Family(93, "Frozen, shared and evaluation mode", (TARGET001,))

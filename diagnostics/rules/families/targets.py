"""Declared target networks: they must lag behind their source, by their own movement alone."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.findings import Severity
from diagnostics.records import Absent, StepRecord, TargetRecord
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
NO_LAG = Cause("no-lag", "it is equal to the source after every step: the whole network is copied each time")
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
    places = [each.place for each in record.held_by(target.name)]
    if any(not isinstance(place, Absent) and place.gradient == "nonzero" for place in places):
        return TRAINED_TARGET, CRITICAL
    if target.moved == 0.0:
        return (STANDS_STILL, NOTE) if target.gap > 0.0 else None
    if target.gap == 0.0:
        return NO_LAG, WARNING
    if not isinstance(target.towards, Absent) and target.towards <= 0.0:
        return MOVES_AWAY, CRITICAL
    return None


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
    " after each step (a warning). It is a note while it stands still.",
    why="The targets of the loss move with the predictions, or mean nothing.",
    example="`target.lerp_(source, 0.99)` where 0.01 was meant gives next to no lag; `2 * target - source` moves away.",
    false_alarms="A target that is copied every thousand steps stands still in between: it is a note.",
    rank=16,
)
FAMILY = Family(93, "Frozen, shared and evaluation mode", (TARGET001,))

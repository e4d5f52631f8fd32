"""Parameters and buffers that are declared frozen and move."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import UNKNOWN, Cause
from diagnostics.findings import Severity
from diagnostics.records import ParameterRecord, StepRecord
from diagnostics.rules.families.weights.movement import MOVERS, TRAINED, TRAINED_ELSEWHERE, movement_cause
from diagnostics.rules.options import Values
from diagnostics.rules.parameter_checks import first_few, grouped
from diagnostics.rules.rule import CRITICAL, Family, Observation, Rule, lasting

RUNNING_STATISTICS = Cause(
    "running-statistics",
    "running statistics: its layer is in training mode and updates them on every batch",
    remedy="Call eval() on the module after each train() of the model.",
)
WRITTEN_BUFFER = Cause(
    "written-buffer",
    "its forward writes it, or other code copies into it (EMA, loading)",
    remedy="Find the code that writes it: its own forward, an average (EMA), or loading.",
)

UNREAD_ATTRIBUTE = Cause(
    "unread-attribute",
    "{name}.{attribute} is False, but torch has no such attribute, so the module still trains",
    remedy="module.requires_grad_(False), or parameter.requires_grad = False for each parameter.",
)


def _judge_frozen(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    return movement_cause(parameter) if parameter.expect_frozen and parameter.changed else None


_find_parameters = grouped("are declared frozen and move", _judge_frozen)


def find_moved_frozen(record: StepRecord, options: Values) -> Iterator[Observation]:
    """FROZEN001: parameters, buffers, and what an attribute does not freeze."""
    yield from _find_parameters(record, options)
    yield from _find_meant(record)
    groups: dict[tuple[str, bool], list[str]] = {}
    for buffer in record.moved_buffers:
        groups.setdefault((buffer.owner, buffer.training), []).append(buffer.name)
    for (owner, training), names in groups.items():
        text = f"{owner or 'model'}: {len(names)} buffers are declared frozen and move ({first_few(names)})"
        cause = RUNNING_STATISTICS if training else WRITTEN_BUFFER
        yield Observation(owner, float(len(names)), text, cause, key=cause)


def _find_meant(record: StepRecord) -> Iterator[Observation]:
    """A warning for each module with parameters that are meant to be frozen and move."""
    groups: dict[str, tuple[str, str, list[str]]] = {}
    for meant, attribute in record.meant_frozen.items():
        inside = (
            (name, each) for name, each in record.parameters.items() if f"{name}.".startswith(f"{meant}.")
        )
        for name, parameter in inside if meant else record.parameters.items():
            if parameter.changed and parameter.requires_grad and not parameter.expect_frozen:
                groups.setdefault(parameter.owner, (meant, attribute, []))[2].append(name)
    for owner, (meant, attribute, names) in groups.items():
        text = f"{owner or 'model'}: {len(names)} parameters are meant to be frozen and move ({first_few(names)})"
        cause = UNREAD_ATTRIBUTE.of(name=meant or "model", attribute=attribute)
        yield Observation(
            owner, float(len(names)), text, cause, key=UNREAD_ATTRIBUTE, severity=Severity.WARNING
        )


FROZEN001 = Rule(
    "FROZEN001",
    CRITICAL,
    "Frozen parameters move",
    "parameters",
    "Set requires_grad to False and .grad to None, take them out of every optimiser, and call eval() on the module"
    " after each train() of the model.",
    find_moved_frozen,
    lasting(1, why="values are compared bit by bit, and the declaration is yours"),
    causes=(
        *MOVERS,
        TRAINED,
        TRAINED_ELSEWHERE,
        RUNNING_STATISTICS,
        WRITTEN_BUFFER,
        UNREAD_ATTRIBUTE,
        UNKNOWN,
    ),
    what="Parameters, or persistent buffers such as running statistics, that `expect_frozen` names changed."
    " A warning: `requires_grad = False` was set on a module, or misspelt, and its parameters move.",
    why="Other modules are built on it or compared with it, and it is no longer the same.",
    example='"Freezing" by clearing the gradients, under weight decay; a frozen BatchNorm after `model.train()`.',
    false_alarms="Running statistics that should follow the data: declare the parameters alone,"
    ' `expect_frozen=["encoder.*.weight", "encoder.*.bias"]`.',
    explains=frozenset({"MOVE002"}),
    rank=100,
)
FAMILY = Family(70, "Frozen, shared and target weights", (FROZEN001,))

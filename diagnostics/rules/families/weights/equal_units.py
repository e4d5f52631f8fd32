"""Units that begin equal and stay equal."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.records import StepRecord
from diagnostics.rules.options import Values
from diagnostics.rules.parameter_checks import first_few, receives
from diagnostics.rules.rule import WARNING, Family, Observation, Rule, lasting

SAME_START = Cause(
    "same-start", "its units began with the same weights and receive the same gradient in each step"
)

SAME_START_STILL = Cause(
    "same-start-still",
    "its units began with the same weights and receive no gradient, because the weights around it are zero too",
)


def find_equal_units(record: StepRecord, options: Values) -> Iterator[Observation]:
    """UNITS001."""
    owners: dict[tuple[str, Cause], list[str]] = {}
    for name in record.equal_units:
        parameter = record.parameters.get(name)
        if parameter is None or not parameter.requires_grad:
            continue
        if receives(parameter) and parameter.changed:
            owners.setdefault((parameter.owner, SAME_START), []).append(name)
        elif (
            parameter.reach.kind == "zero" and parameter.largest == 0.0 and _has_zero_neighbour(record, name)
        ):
            owners.setdefault((parameter.owner, SAME_START_STILL), []).append(name)
    for (owner, cause), names in owners.items():
        message = f"{owner or 'model'}: all rows of {first_few(names)} are equal, and stay so while they are trained"
        yield Observation(owner, float(len(names)), message, cause, key=cause.code)


def _has_zero_neighbour(record: StepRecord, weight: str) -> bool:
    """Whether another layer next to it is zero too: alone it would receive gradient, unless a factor behind it is 0."""
    layer = weight.rpartition(".")[0]
    around = f"{layer.rpartition('.')[0]}.".removeprefix(".")
    return any(
        each.weight_norm == 0.0
        and each.numel > 1
        and name.startswith(around)
        and name.rpartition(".")[0] != layer
        for name, each in record.parameters.items()
        if name.rpartition(".")[2] != "bias"
    )


UNITS001 = Rule(
    "UNITS001",
    WARNING,
    "All units of a layer are equal",
    "parameters",
    "Initialise the weights at random, as torch does by default.",
    find_equal_units,
    lasting(5, why="a layer that begins with zeros is equal until its first gradient"),
    causes=(SAME_START, SAME_START_STILL),
    what="All rows of a weight were equal when the monitor was made. It is trained, and they still are.",
    why="All units of the layer compute the same number.",
    example="`nn.init.constant_(layer.weight, 0.1)`.",
    false_alarms="None known.",
    explains=frozenset({"COV001", "COV002", "WASTE001", "GRAD002", "REACH002"}),
    rank=38,
)
FAMILY = Family(75, "Outputs of modules", (UNITS001,))

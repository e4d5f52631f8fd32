"""Averages of an optimiser that cannot be meant."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.records import Absent, StepRecord
from diagnostics.rules.options import Values
from diagnostics.rules.rule import WARNING, Family, Observation, Rule, lasting

FACTORS_EXCHANGED = Cause(
    "factors-exchanged",
    "betas = ({mean:g}, {square:g}): gradients are averaged over more steps than their squares, which should be the"
    " other way round",
)


def find_exchanged_factors(record: StepRecord, options: Values) -> Iterator[Observation]:
    """RATE002, for each group."""
    groups = {
        (place.optimizer, place.group): (place.beta_mean, place.beta_square)
        for parameter in record.parameters.values()
        if not isinstance(place := parameter.place, Absent) and place.stepped
    }
    for (optimizer, group), (mean, square) in groups.items():
        if isinstance(mean, Absent) or isinstance(square, Absent) or mean * mean <= square:
            continue
        cause = FACTORS_EXCHANGED.of(mean=mean, square=square)
        message = f"model: group {group} divides an average of {1 / (1 - mean):.0f} steps by one of {{value}}"
        yield Observation("", 1 / (1 - square), message, cause, key=(optimizer, group))


RATE002 = Rule(
    "RATE002",
    WARNING,
    "The averaging factors of Adam are exchanged",
    "steps",
    "Usual factors are betas=(0.9, 0.999).",
    find_exchanged_factors,
    lasting(5, why="a schedule may change them"),
    needs_optimizer=True,
    causes=(FACTORS_EXCHANGED,),
    what="The first of the two `betas` of an Adam is larger than the root of the second. Convergence is proved for"
    " smaller ones alone (Zhang et al. 2022, arXiv 2208.09632).",
    why="Old gradients are divided by the size of new ones, so a step may be many times larger than the rate.",
    example="`Adam(parameters, betas=(0.999, 0.9))`.",
    false_alarms="None known.",
)
FAMILY = Family(63, "Updates of parameters", (RATE002,))

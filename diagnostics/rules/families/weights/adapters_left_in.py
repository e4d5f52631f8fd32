"""Adapters that are merged into frozen weights, and trained on top of them."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.records import StepRecord
from diagnostics.rules.options import Values
from diagnostics.rules.parameter_checks import first_few
from diagnostics.rules.rule import WARNING, Family, Observation, Rule, lasting
from diagnostics.selection import innermost

LEFT_IN = Cause(
    "left-in",
    "the product of {up} and {down} was added to {weight} between two updates, and is used twice from then on",
    remedy="Subtract the product after the evaluation, or evaluate a copy.",
)


def find_merged_adapters(record: StepRecord, options: Values) -> Iterator[Observation]:
    """FROZEN002, for each watched module."""
    owners: dict[str, list[int]] = {}
    for number, merged in enumerate(record.merged):
        owners.setdefault(innermost(merged.weight, record.modules), []).append(number)
    for owner, numbers in owners.items():
        merged = record.merged[numbers[0]]
        names = first_few(record.merged[number].weight for number in numbers)
        message = f"{owner or 'model'}: {len(numbers)} frozen weights contain their adapter ({names})"
        cause = LEFT_IN.of(weight=merged.weight, up=merged.up, down=merged.down)
        yield Observation(owner, float(len(numbers)), message, cause, key=LEFT_IN.code)


FROZEN002 = Rule(
    "FROZEN002",
    WARNING,
    "An adapter is merged and still applied",
    "parameters",
    "Take the adapter out of the weights before training continues.",
    find_merged_adapters,
    lasting(1, why="the change of the weight is compared with the product"),
    causes=(LEFT_IN,),
    what="From one step to the next a frozen matrix changes by the product of the two trainable ones next to it: a"
    " low-rank adapter was merged, and counts twice from then on.",
    why="Each evaluation changes the model that is trained, and the saved adapter no longer fits the original weights.",
    example="`merge()` before the validation, without `unmerge()` after it.",
    false_alarms="None known.",
)
FAMILY = Family(71, "Frozen, shared and target weights", (FROZEN002,))

"""Weight decay that is too large for its learning rate."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.records import Absent, StepRecord
from diagnostics.rules.options import Option, Values
from diagnostics.rules.parameter_checks import receives
from diagnostics.rules.rule import CRITICAL, Family, Observation, Rule, lasting

DECAY_DOMINATES = Cause(
    "weight-decay-dominates",
    "the rate {rate:g} times the weight decay {decay:g} is larger than any gradient can balance",
)


def find_dominant_decay(record: StepRecord, options: Values) -> Iterator[Observation]:
    """MOVE006."""
    groups: dict[tuple[int, int], tuple[float, float]] = {}
    for parameter in record.parameters.values():
        place = parameter.place
        if isinstance(place, Absent) or not place.stepped or not receives(parameter):
            continue
        if not isinstance(place.lr, Absent) and not isinstance(place.weight_decay, Absent):
            groups[place.optimizer, place.group] = (place.lr, place.weight_decay)
    for (optimizer, group), (rate, decay) in groups.items():
        if rate * decay >= options["above"]:
            message = f"model: each step takes {{value}} of the weights of group {group} away"
            cause = DECAY_DOMINATES.of(rate=rate, decay=decay)
            yield Observation("", rate * decay, message, cause, key=(optimizer, group))


MOVE006 = Rule(
    "MOVE006",
    CRITICAL,
    "Weight decay outweighs the gradients",
    "decay",
    "Reduce the weight decay: usual values times the rate are below 1e-3.",
    find_dominant_decay,
    {
        "above": Option(
            0.1,
            0.0,
            1.0,
            "share of the weights that a step takes away",
            why="halves the weights in seven steps; training with decay takes 1e-6 to 1e-3",
        ),
        **lasting(5, why="the first steps of a schedule must not count"),
    },
    "above",
    needs_optimizer=True,
    of_updates=True,
    causes=(DECAY_DOMINATES,),
    what="The learning rate times the weight decay of a group is too large: this is the share of the weights that"
    " a step removes.",
    why="The weights shrink to the size of one update, for any loss.",
    example="`AdamW(parameters, lr=1e-2, weight_decay=50)`.",
    false_alarms="A group that is meant to be regularised to zero.",
)
FAMILY = Family(61, "Updates of parameters", (MOVE006,))

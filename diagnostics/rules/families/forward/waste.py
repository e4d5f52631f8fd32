"""Waste: what a module computes and nothing uses."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.records import Absent, StepRecord
from diagnostics.rules.options import Option, Values
from diagnostics.rules.rule import WARNING, Family, Observation, Rule, lasting, learners

ROWS_DROPPED = Cause(
    "rows-dropped", "the outputs of these rows are replaced or detached before they reach the loss"
)


def find_wasted_rows(record: StepRecord, options: Values) -> Iterator[Observation]:
    """WASTE001."""
    for name, module in learners(record):
        if isinstance(module.waste, Absent) or module.state != "arrived":
            continue
        alike = all(other.coverage == module.coverage for _, other in learners(record))
        if alike and len(record.modules) > 1 and record.never < module.waste:
            continue  # the loss leaves out other samples in each step: COV001
        if record.related or record.is_head_of_some(name) or record.is_one_of_several(name):
            continue  # COV001 has a note
        if module.waste >= options["above"]:
            message = f"{name}: {{value}} of the samples that it computed got no gradient back"
            yield Observation(name, module.waste, message, ROWS_DROPPED)


WASTE001 = Rule(
    "WASTE001",
    WARNING,
    "Computed rows that are not used",
    "waste",
    "Compute only the rows that are used, or use the rows that are computed.",
    find_wasted_rows,
    {
        "above": Option(
            0.5,
            0.0,
            1.0,
            "waste from which a step counts",
            why="from half of the work on, computing only what is used is worth the trouble",
        ),
        **lasting(5),
    },
    "above",
    causes=(ROWS_DROPPED,),
    what="At least half of the samples that the module computed got no gradient back, while some did.",
    why="The computation is wasted, and often this comes with a low coverage.",
    example="Encode 256 rows and keep the 10 that reset: waste 0.96.",
    false_alarms="Negatives of a contrastive loss after a stop-gradient.",
    spreads="backward",
    rank=170,
)
FAMILY = Family(20, "Samples that train a module", (WASTE001,))

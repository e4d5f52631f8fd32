"""Whether a step adds all rows up in one of several, as the nodes of all graphs in the first graph."""

from __future__ import annotations

from collections.abc import Sequence

from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.rules.rule import WARNING, Rule

ONE_PLACE = Cause(
    "one-place",
    "all {rows} rows are added to row {place} of {places}, and the others stay as they were: {operation}",
    remedy="Look at the index: torch.arange(graphs).repeat_interleave(sizes) numbers the graph of each node.",
)
ROWS004 = Rule(
    "ROWS004",
    WARNING,
    "All rows are added up in one",
    "operations",
    "Look at the index.",
    source="audit",
    by_operations=True,
    arguments="audit",
    causes=(ONE_PLACE,),
    what="In all repeated steps, index_add(), scatter_add() or their like adds 16 or more rows with a graph, and all"
    " numbers of its index are the same one of four or more.",
    why="One sample gets the sum of all, and the others get nothing, so that the model cannot tell them apart.",
    example="`torch.zeros_like(batch)` as the numbers of the graphs that are pooled.",
    false_alarms="One sample alone has rows in each audited batch.",
)


def check_added_rows(traces: Sequence[OperationTrace]) -> list[Finding]:
    """ROWS004, for the first place in which each step adds everything to one row."""
    every = [trace.added_rows.crowded() for trace in traces]
    for line, (operation, rows, places, place) in every[0].items() if every else ():
        if all(line in each for each in every):
            facts = {"rows": rows, "places": places, "place": place}
            return [ROWS004.found_once("", ONE_PLACE.of(**facts, operation=operation))]
    return []

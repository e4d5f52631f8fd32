"""Shapes, views and indices that combine numbers of several samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diagnostics.auditing.probes.operations.placed import Placed
from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.auditing.tracing.recorded_calls import Exchange, PairCall, Pick
from diagnostics.causes import Cause

PAIRS = Cause(
    "broadcast-by-hand",
    "a column {column} and a vector {vector} broadcast to all pairs of samples: {operation}",
    remedy="Give both the same shape first: column.squeeze(1), or vector.unsqueeze(1).",
)
EXCHANGED_BY_VIEW = Cause(
    "dimensions-exchanged-by-view",
    "{operation} changes the shape {before} to {after} without moving numbers, so a row then contains numbers"
    " of several rows",
    remedy="Exchange dimensions with transpose() or permute().",
)
PICKS_SAMPLES = Cause(
    "picks-samples",
    "an index of {samples} numbers below {choices} selects samples, although it could select one of {choices}"
    " choices for each sample: {operation}",
    remedy="Select along the choices: gather(1, index).",
)
CAUSES = (
    PAIRS,
    EXCHANGED_BY_VIEW,
    PICKS_SAMPLES,
)


def judge_shapes(traces: Sequence[OperationTrace], samples: int) -> Iterator[Placed]:
    """Where every step combines numbers of several samples."""
    yield from _find_pairs(traces, samples)
    yield from _find_picked_samples(traces, samples)
    for cause in _find_exchanged(traces, samples):
        yield (), cause


def _find_pairs(traces: Sequence[OperationTrace], samples: int) -> Iterator[Placed]:
    """Where each step combines a column and a vector of all samples that nobody turned into a column for it."""
    for call in traces[0].shapes.pairs if traces else ():
        alike = [
            [each for each in trace.shapes.pairs if each.operation.place == call.operation.place]
            for trace in traces
        ]
        if all(alike) and not call.meant and len(call.result) == samples:
            yield call.sources, broadcast_cause(call)
            return  # what follows is computed from it


def broadcast_cause(call: PairCall) -> Cause:
    """The cause that names a column and a vector."""
    column, vector = call.shapes
    return PAIRS.of(column=column, vector=vector, operation=call.operation)


def _find_picked_samples(traces: Sequence[OperationTrace], samples: int) -> Iterator[Placed]:
    """Where each step picks with one number per sample along the samples, and no number is too large for a choice."""
    for pick in traces[0].scores.picks if traces else ():
        place = pick.operation.place
        alike = [each for trace in traces for each in trace.scores.picks if each.operation.place == place]
        if len(alike) >= len(traces) and all(_picks_samples(each, samples) for each in alike):
            facts = {"samples": samples, "choices": pick.shape[1]}
            yield pick.sources, PICKS_SAMPLES.of(**facts, operation=pick.operation)
            return


def _picks_samples(pick: Pick, samples: int) -> bool:
    if pick.dim != 0 or len(pick.shape) != 2 or pick.shape[0] != samples or pick.index.numel() != samples:
        return False
    choices = pick.shape[1]
    return 1 < choices <= samples // 4 and int(pick.index.max()) < choices


def _find_exchanged(traces: Sequence[OperationTrace], samples: int) -> Iterator[Cause]:
    """Where each step views dimensions in another order, as only a transposition can give them."""
    for first in traces[0].shapes.exchanges if traces and samples > 1 else ():
        place = first.operation.place
        alike = [
            [each for each in trace.shapes.exchanges if each.operation.place == place] for trace in traces
        ]
        views = [each for found in alike for each in found]
        always = all(place not in trace.shapes.other_views for trace in traces)
        if all(alike) and (
            all(any(each.leads_elsewhere(samples) for each in found) for found in alike)
            or (always and all(each.cannot_group() for each in views))
            or (always and _vary(views))
        ):
            yield EXCHANGED_BY_VIEW.of(operation=first.operation, before=first.before, after=first.after)
            return


def _vary(views: Sequence[Exchange]) -> bool:
    """Whether views exchange two dimensions whatever their size: groups would not always be as many as their size."""
    shapes = {each.before for each in views}
    return len(shapes) > 1 and all(min(shape) > 1 for shape in shapes)

"""What the calls of a step have in common: one batch twice, few different rows, a state that is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from diagnostics.auditing.probes.input_checks import INPUT001, JOINED_WITH_ITSELF
from diagnostics.auditing.probes.operations.loss_checks import LOSS004, OPPONENTS_AGREE
from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.rules.rule import CRITICAL, LITTLE_USED, WARNING, Family, Rule

SAME_DATA = Cause(
    "same-data-twice",
    "{one} and {other} receive the same {rows} rows in two different tensors",
    remedy="Check the code that makes the two tensors: a state and its successor, or two views, should differ.",
)
FEW_ROWS = Cause(
    "few-different-rows",
    "the batches of all repeated steps contain only {different} different rows, each in {rows} places",
    remedy="Check the code that fills the batch: perhaps an observation or an index is not updated.",
)
INPUT004 = Rule(
    "INPUT004",
    WARNING,
    "The model receives the same data again",
    "operations",
    "Look at what makes the inputs.",
    source="audit",
    by_operations=True,
    arguments="audit",
    causes=(SAME_DATA, FEW_ROWS),
    what="In each repeated step, one module, or two modules of the same class and shapes, get tensors with equal"
    " numbers that are not copies of one another, and one module also returns equal numbers. Or the rows of"
    " all repeated steps are copies of an eighth of a batch, and their numbers are not whole.",
    why="Two equal views give nothing to compare, and a state cannot be compared with its successor.",
    example="`view = augment(x); return view, view`; a replay memory that stores the new state as the old one.",
    false_alarms="A world with few states that are given as fractions.",
)
NOT_A_NUMBER = Cause(
    "nan-in-input",
    "a tensor that {module} receives contains NaN before any weight is used",
    remedy="Check the data and its scaling: division by a count or a deviation of 0, rsqrt() of 0.",
)
_BROKEN = LITTLE_USED | {"REACH003", "UNITS002", "INPUT003", "MOVE005"}
INPUT005 = Rule(
    "INPUT005",
    CRITICAL,
    "The input contains NaN",
    "operations",
    "Look at the data and what scales them.",
    source="audit",
    by_operations=True,
    arguments="audit",
    causes=(NOT_A_NUMBER,),
    what="In each repeated step an outermost module receives a tensor without a graph that contains NaN.",
    why="One NaN in a sum makes the loss, all gradients and then all weights NaN.",
    example="`degree.rsqrt()` of a node without edges.",
    false_alarms="Missing values that the model itself fills.",
    explains=_BROKEN,
    upstream=_BROKEN,
    downstream=_BROKEN,
    rank=3,
)
STATE_DROPPED = Cause(
    "state-dropped",
    "each of {calls} calls receives the same tensor of shape {shape}, and nothing reads the new state of that"
    " shape that each call returns",
    remedy="Pass the returned state to the next call.",
)
NOISE_AS_STATE = Cause(
    "noise-as-state",
    "a recurrent layer starts each step from new random numbers: {operation}",
    remedy="Start from zeros, or from a parameter.",
)
OPTIMIZER_RENEWED = Cause(
    "optimizer-renewed",
    "each pass over the data has a new {optimizer} of the same weights, which begins without the averages of the one"
    " before",
    remedy="Make the optimiser once, before the loop over epochs; change its rate by group['lr'] = rate.",
)
STATE002 = Rule(
    "STATE002",
    WARNING,
    "A state is lost",
    "operations",
    "Pass the returned state to the next call.",
    source="audit",
    by_operations=True,
    arguments="audit",
    causes=(STATE_DROPPED, NOISE_AS_STATE, OPTIMIZER_RENEWED),
    what="In each repeated step, a module is called three or more times with different inputs and the same"
    " computed tensor, and nothing reads its output in the shape of that tensor. Or the first state of a"
    " recurrent layer that reads data is a random draw. In a script: three passes over the same data in a row have"
    " a new optimiser each, of the same weights, which keeps averages.",
    why="The module sees one input at a time, but the loss still falls.",
    example="`out, _ = decoder(word, hidden)` in a loop over words; `h0 = torch.randn(...)`.",
    false_alarms="States that are random on purpose.",
)
FAMILY = Family(136, "Inputs, embeddings and states", (INPUT004, INPUT005, STATE002))

_COPIES_OF_ROWS = 8
"""Rows of a batch for each different row of all repeated steps: data sets that are drawn with repetition have 1."""
_FEWEST = 32  # rows


def check_calls(traces: Sequence[OperationTrace], owner: Callable[[str], str]) -> list[Finding]:
    """The findings in the calls of repeated steps, for what holds in every one.

    Args:
        owner: Function full name of a module -> the innermost watched module that contains it.
    """
    if not traces:
        return []
    calls = [trace.calls for trace in traces]
    found = []
    for twin in calls[0].twins:
        if all(any(each.one == twin.one and each.other == twin.other for each in one.twins) for one in calls):
            names = {"one": twin.one or "the model", "other": twin.other or "the model"}
            found.append(INPUT004.found_once("", SAME_DATA.of(**names, rows=twin.rows)))
            break
    few = _find_few_rows(traces)
    found += [] if few is None else [INPUT004.found_once("", few)]
    broken = sorted(set.intersection(*(set(each.broken) for each in calls)))
    for name in broken[:1]:
        found.append(INPUT005.found_once("", NOT_A_NUMBER.of(module=name or "the model")))
    for state in calls[0].dropped:
        if all(any(each.module == state.module for each in one.dropped) for one in calls):
            cause = STATE_DROPPED.of(calls=state.calls, shape=state.shape)
            found.append(STATE002.found_once(owner(state.module) or state.module, cause))
    noisy = set.intersection(*({each.place for each in trace.layers.noisy_states} for trace in traces))
    for operation in [each for each in traces[0].layers.noisy_states if each.place in noisy][:1]:
        found.append(STATE002.found_once(owner(operation.module), NOISE_AS_STATE.of(operation=operation)))
    for agreed in calls[0].agreeing:
        if all(any(each.judge == agreed.judge for each in one.agreeing) for one in calls):
            cause = OPPONENTS_AGREE.of(judge=agreed.judge, maker=agreed.maker)
            found.append(LOSS004.found_once("", cause, WARNING))
            break
    for unread in calls[0].unread:
        if all(any(each.module == unread.module for each in one.unread) for one in calls):
            facts = {"place": unread.place + 1, "shape": unread.shape, "operation": unread.doubled}
            found.append(INPUT001.found_once(owner(unread.module), JOINED_WITH_ITSELF.of(**facts)))
    return found


def _find_few_rows(traces: Sequence[OperationTrace]) -> Cause | None:
    """Whether every module is given few different rows, of numbers that are not whole, over all steps."""
    rows = [each for trace in traces for each in trace.calls.rows]
    if not rows or not all(trace.calls.rows for trace in traces) or any(each.whole for each in rows):
        return None
    places = min(len(each.codes) for each in rows)
    names = {each.module for each in rows}
    different = [
        len(torch.cat([each.codes for each in rows if each.module == name]).unique()) for name in names
    ]
    single = any(len(each.codes.unique()) < 2 for each in rows)
    if single or places < _FEWEST or max(different) * _COPIES_OF_ROWS > places:
        return None
    return FEW_ROWS.of(different=max(different), rows=places)

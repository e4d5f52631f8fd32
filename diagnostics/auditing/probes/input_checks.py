"""What becomes of the inputs of a step: those that nothing reads, and batches that the step changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from diagnostics.auditing.observed_step import ObservedStep
from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.recording.random_numbers import RandomState
from diagnostics.recording.tensors import tensors_in
from diagnostics.rules.rule import LITTLE_USED, NOTE, WARNING, Family, Rule

READ_TWICE = Cause(
    "another-input-read-twice",
    "nothing reads argument {place} of the model, and {readers} read argument {other} of the same shape",
    remedy="Give each of the modules its own argument.",
)
UNREAD = Cause("input-unread", "argument {place} of the model, of shape {shape}, does not change its output")
JOINED_WITH_ITSELF = Cause(
    "another-argument-joined-twice",
    "nothing reads argument {place} of its call, of shape {shape}, and another tensor is joined with itself:"
    " {operation}",
    remedy="Join the two arguments.",
)
REPLACED = Cause(
    "all-replaced",
    "all of {shape} numbers are replaced by one, because a condition is true for each: {operation}",
    remedy="Look at the condition: a random number is true unless it is 0; compare it with a rate.",
)
INPUT001 = Rule(
    "INPUT001",
    WARNING,
    "An input of the model is not read",
    "operations",
    "Use it in forward(), or do not pass it.",
    source="audit",
    arguments="audit",
    causes=(READ_TWICE, UNREAD, JOINED_WITH_ITSELF, REPLACED),
    what="In each repeated step no function receives one of the tensors that the model is given, and exchanging"
    " its samples does not change the output. A note, unless two modules read another input of the same"
    " shape. In any module: nothing reads an argument, and cat() joins another tensor with itself. Anywhere: where(),"
    " masked_fill() or an assignment replaces all of some data by one number.",
    why="The model does not get data that it was meant to use.",
    example="`torch.cat([self.left(left), self.right(left)], 1)` in `forward(left, right)`.",
    false_alarms="Models with a common interface, some of which need fewer inputs: a note.",
)
CHANGED_AGAIN = Cause(
    "batch-changed-again",
    "the step changes the numbers of its batch in place, and received batches that it had changed before",
    remedy="Work on a clone: x = x.clone() before x.add_(), x[mask] = ... or F.relu(x, inplace=True).",
)
CHANGED_ONCE = Cause(
    "batch-changed",
    "the step changes the numbers of its batch in place, which is harmless if each batch is new",
)
INPUT002 = Rule(
    "INPUT002",
    WARNING,
    "The step changes its data",
    "operations",
    "Work on a clone of the batch.",
    source="audit",
    arguments="audit",
    causes=(CHANGED_AGAIN, CHANGED_ONCE),
    what="A step changes values of its batch in place, and the same tensors were used again in a later step of the"
    " audit. A note if they were not.",
    why="The data get worse in each epoch: more values are masked, noise adds up, a scale is applied again.",
    example="`ids[mask] = MASK` in the tensors of a dataset that is held in memory.",
    false_alarms="A static buffer that is filled before each step, as for CUDA graphs.",
)
SMALL_TO_BIAS = Cause(
    "small-next-to-bias",
    "its outputs differ between samples by only {spread:.2g} of their size, because the inputs are tiny"
    " compared with its bias",
    remedy="Standardise the inputs; images may be divided by 255 twice.",
)
SMALL_TO_MEAN = Cause(
    "small-next-to-mean",
    "its outputs differ between samples by only {spread:.2g} of their size, because the mean of the inputs"
    " dominates",
    remedy="Subtract the mean of the inputs, and divide by their standard deviation.",
)
INPUT003 = Rule(
    "INPUT003",
    WARNING,
    "The first layer hardly responds to its input",
    "operations",
    "Standardise the inputs.",
    source="audit",
    arguments="audit",
    causes=(SMALL_TO_BIAS, SMALL_TO_MEAN),
    what="In each repeated step the outputs of a layer that reads the data differ between samples by less than 2 % of"
    " their size, and no normalisation follows.",
    why="The next layers get almost the same values for all samples, so the weights must first grow a hundredfold.",
    example="Images divided by 255 twice; years as they are.",
    false_alarms="An input of which only the mean matters.",
    explains=frozenset({"COLLAPSE001", *LITTLE_USED}),
    upstream=frozenset({"COLLAPSE001", *LITTLE_USED}),
    rank=6,
)
FAMILY = Family(129, "Inputs, embeddings and states", (INPUT001, INPUT002, INPUT003))

_SPREAD = 0.02
"""Deviation between samples relative to the size: standardised inputs give 0.5 and more, pixels from 0 to 1 0.2."""


def check_first_layers(traces: Sequence[OperationTrace], owner: Callable[[str], str]) -> list[Finding]:
    """INPUT003 for the first layer of which it is so in every trace.

    Args:
        owner: Function full name of a module -> the innermost watched module that contains it.
    """
    every = [{call.module: call for call in trace.layers.first} for trace in traces]
    for name, call in every[0].items() if every else ():
        if all(name in each and each[name].spread < _SPREAD for each in every):
            cause = SMALL_TO_BIAS if call.offset > 0.5 else SMALL_TO_MEAN
            return [INPUT003.found_once(owner(name), cause.of(spread=call.spread))]
    return []


def check_selections(traces: Sequence[OperationTrace]) -> list[Finding]:
    """INPUT001 for the first place where every trace replaces all of some data by one number."""
    every = [trace.selections.emptied for trace in traces]
    places = sorted(set.intersection(*map(set, every))) if every else []
    causes = [REPLACED.of(operation=every[0][place][0], shape=every[0][place][1]) for place in places[:1]]
    return [INPUT001.found_once("", cause) for cause in causes]


def check_inputs(model: nn.Module, steps: Sequence[ObservedStep]) -> list[Finding]:
    """INPUT001 in repeated steps; the random numbers are restored, and the mode of the model is not."""
    if not steps or steps[0].call is None:
        return []
    reads = [step.trace.reads for step in steps]
    places = set.intersection(*(set(each.unread()) for each in reads))
    found = []
    for place in sorted(places):
        if not all(_is_without_effect(model, step, place) for step in steps):
            continue
        cause = _read_twice(steps[0], place)
        shape = tuple(reads[0].given[place].shape)
        found.append(
            INPUT001.found_once("", UNREAD.of(place=place + 1, shape=shape), NOTE)
            if cause is None
            else INPUT001.found_once("", cause)
        )
    return found


def _read_twice(step: ObservedStep, unread: int) -> Cause | None:
    """Whether several modules with weights read another input of the same kind."""
    reads = step.trace.reads
    missing = reads.given[unread]
    for place, other in enumerate(reads.given):
        alike = other.shape == missing.shape and other.dtype == missing.dtype
        readers = reads.readers(place)
        if place != unread and alike and len(readers) > 1 and not torch.equal(other, missing):
            return READ_TWICE.of(place=unread + 1, other=place + 1, readers=" and ".join(readers))
    return None


def _is_without_effect(model: nn.Module, step: ObservedStep, place: int) -> bool:
    """Whether the output stays the same with the samples of an input exchanged; False where that is no change."""
    given = step.trace.reads.given
    if step.call is None or place >= len(given) or not given[place].dim():
        return False
    tensor, random = given[place], RandomState()
    was = tensor.detach().clone()
    if torch.equal(was.roll(1, 0), was):
        return False
    with torch.no_grad():
        model.eval()
        before = _numbers(step.call)
        try:  # the tensor is the user's
            tensor.copy_(was.roll(1, 0))
            random.restore()
            after = _numbers(step.call)
        except RuntimeError:
            return False  # it is expanded, or read as an index
        finally:
            if not torch.equal(tensor, was):
                tensor.copy_(was)
    return len(before) == len(after) and all(map(torch.equal, before, after))


def _numbers(call: Callable[[], object]) -> list[Tensor]:
    return [each.detach().clone() for each in tensors_in(call())]


class ChangedBatches:
    """Whether the batches of an audit are changed by its steps, and come again."""

    def __init__(self) -> None:
        self._changed: dict[int, Tensor] = {}
        self._again = False

    def start(self, batch: object) -> None:
        """A step begins."""
        self._again |= any(id(each) in self._changed for each in tensors_in(batch))

    def end(self, batch: object) -> None:
        """A step changed its batch."""
        self._changed.update((id(each), each) for each in tensors_in(batch))

    def findings(self) -> list[Finding]:
        """INPUT002, if a step changed its batch."""
        if not self._changed:
            return []
        again = self._again
        return [INPUT002.found_once("", CHANGED_AGAIN if again else CHANGED_ONCE, None if again else NOTE)]

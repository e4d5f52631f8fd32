"""How a step makes weights of scores: a softmax over the wrong elements, one that is too hard, masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from diagnostics.auditing.probes.operations.placed import Placed
from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.auditing.tracing.recorded_calls import SoftmaxCall
from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.rules.rule import LITTLE_USED, WARNING, Rule

ONE_ELEMENT = Cause(
    "one-element",
    "the softmax is over one element, so it is 1 for any input: {operation}",
    remedy="Apply softmax before topk(), or use sigmoid for a single gate.",
)
OVER_SAMPLES = Cause(
    "over-samples",
    "the softmax is over dimension 0, which holds the samples of the batch: {operation}",
    remedy="Choose the dimension of the elements that compete, usually dim=-1.",
)
OTHER_DIMENSION = Cause(
    "other-dimension",
    "the softmax is over dimension {dim}, but the product that uses its weights sums over another dimension,"
    " so the weights of a query do not sum to 1: {operation}",
    remedy="Apply softmax over the keys, dim=-1 of scores of shape (..., queries, keys).",
)
ONE_HOT = Cause(
    "one-hot",
    "one element has all the weight in nearly every row, so almost no gradient passes: {operation}",
    remedy="Reduce the scores: divide them by the root of the width, or use a temperature near 1.",
)
READS_PADDING = Cause(
    "reads-padding-alone",
    "the keys that its mask keeps are the same in all samples, but the hidden keys differ: {operation}",
    remedy="Invert the mask: in key_padding_mask True hides a key; in a Boolean attn_mask of"
    " scaled_dot_product_attention True keeps it.",
)
MASK_MULTIPLIED = Cause(
    "mask-multiplied",
    "a mask of zeros and ones is multiplied with the scores or added to them, so masked elements keep the"
    " weight exp(0): {operation}",
    remedy="scores.masked_fill(mask == 0, -torch.inf) before the softmax.",
)
ALWAYS_FLAT = Cause(
    "flat-for-all-weights",
    "the scores of a row differ by at most {spread:.2g}, even with weights ten times as large, so all classes"
    " stay almost equally likely: {operation}",
    remedy="Divide cosines by a temperature such as 0.07; do not multiply by it.",
)
LATER_ALONE = Cause(
    "sees-later-alone",
    "the mask of an attention hides all earlier positions, and shows later positions at nearly every"
    " position: {operation}",
    remedy="A causal mask is lower triangular: torch.ones(T, T).tril(), with True for visible positions.",
)
SOFTMAX001 = Rule(
    "SOFTMAX001",
    WARNING,
    "A softmax over the wrong elements, or saturated",
    "operations",
    "Choose the dimension whose elements compete, or reduce the scores.",
    source="audit",
    by_operations=True,
    arguments="audit",
    causes=(
        ONE_ELEMENT,
        OVER_SAMPLES,
        OTHER_DIMENSION,
        ONE_HOT,
        READS_PADDING,
        MASK_MULTIPLIED,
        ALWAYS_FLAT,
        LATER_ALONE,
    ),
    what="In each repeated step a trained softmax sums over a dimension of size 1, over the samples of the batch,"
    " or over heads or queries of an attention, or gives one element all the weight; a mask is multiplied"
    " with its scores; the mask of an attention keeps only keys that are the same in all samples; or no"
    " weights affect the differences between the scores of a cross entropy.",
    why="A softmax of one element has no gradient; over samples, each prediction depends on the other samples.",
    example="`logits.topk(1).values.softmax(-1)` as the gate of a mixture of experts; `nn.Softmax(dim=0)`.",
    false_alarms="A batch that is one bag or graph; attention over a single key; a trained gate that is certain;"
    " queries that compete for keys, unless their weights are divided by a sum.",
    explains=frozenset({"REACH002", "GRAD002", "GRAD005", "LEAK001", "COLLAPSE001", *LITTLE_USED}),
    upstream=frozenset({"REACH007"}),
    rank=8,
)
_HARD = 0.9  # share of the rows


def judge_scores(
    traces: Sequence[OperationTrace], samples: int, owner: Callable[[str], str]
) -> Iterator[Placed]:
    """What every step does wrong when it makes weights of scores.

    Args:
        traces: One per step, of different batches.
        samples: Number of samples in a batch.
        owner: Function full name of a module -> the innermost watched module that contains it.
    """
    for softmax in _in_every_step(traces):
        module = softmax.operation.module
        for cause in _judge_softmax(softmax, samples):
            yield (module,) if owner(module) else softmax.sources, cause
        if not _sums_over_weights(softmax, traces):
            yield (module,), OTHER_DIMENSION.of(dim=softmax.dim, operation=softmax.operation)
    yield from _find_read_padding(traces)
    for operation in traces[0].scores.backward_masks if traces else ():
        if all(
            any(each.place == operation.place for each in trace.scores.backward_masks) for trace in traces
        ):
            yield (operation.module,), LATER_ALONE.of(operation=operation)


def find_hard(traces: Sequence[OperationTrace], owner: Callable[[str], str]) -> Iterator[Finding]:
    """Softmaxes that are nearly one-hot in every step: one finding each, with the modules that the scores come from."""
    for call in _in_every_step(traces):
        if _is_hard(call, traces):
            first, *others = sorted({owner(name) for name in call.sources}) or [owner(call.operation.module)]
            cause = ONE_HOT.of(operation=call.operation)
            held = tuple(SOFTMAX001.found_once(module, cause) for module in others)
            yield replace(SOFTMAX001.found_once(first, cause), consequences=held)


def _in_every_step(traces: Sequence[OperationTrace]) -> Iterator[SoftmaxCall]:
    """The softmaxes of the first step that all other steps call too."""
    for call in traces[0].scores.softmaxes if traces else ():
        if all(any(_alike(call, other) for other in trace.scores.softmaxes) for trace in traces):
            yield call


def _find_read_padding(traces: Sequence[OperationTrace]) -> Iterator[Placed]:
    """Attentions whose mask keeps the padding in every step."""
    for attention in traces[0].scores.attentions if traces else ():
        place = attention.operation.place
        alike = [
            [each for each in trace.scores.attentions if each.operation.place == place] for trace in traces
        ]
        if all(any(each.reads_constant for each in calls) for calls in alike) and attention.reads_constant:
            yield (attention.operation.module,), READS_PADDING.of(operation=attention.operation)


def _judge_softmax(call: SoftmaxCall, samples: int) -> Iterator[Cause]:
    size = call.shape[call.dim]
    if call.later:
        yield LATER_ALONE.of(operation=call.operation)
    if call.masked:
        yield MASK_MULTIPLIED.of(operation=call.operation)
    if size == 1:
        yield ONE_ELEMENT.of(operation=call.operation)
        return
    others = call.shape[1:]
    led = call.dim == 0 and samples > 1 and size % samples == 0
    if (
        led and others and max(others) > 1 and others != (size,)
    ):  # a square of similarities has no other dimension
        yield OVER_SAMPLES.of(operation=call.operation)


def _sums_over_weights(call: SoftmaxCall, traces: Sequence[OperationTrace]) -> bool:
    """Whether some product sums over what the softmax in this place is over; True where none is known."""
    place = call.operation.place
    alike = [each for trace in traces for each in trace.scores.softmaxes if each.operation.place == place]
    sums = [summed for each in alike for summed in each.summed]
    over_samples = any(cause.code == OVER_SAMPLES.code for cause in _judge_softmax(call, call.shape[0]))
    return not sums or any(sums) or over_samples


def _is_hard(call: SoftmaxCall, traces: Sequence[OperationTrace]) -> bool:
    """Whether all calls in its place are nearly one-hot."""
    place = call.operation.place
    return all(
        each.hard > _HARD
        for trace in traces
        for each in trace.scores.softmaxes
        if each.operation.place == place
    )


def _alike(one: SoftmaxCall, other: SoftmaxCall) -> bool:
    same = one.operation.place == other.operation.place and one.operation.module == other.operation.module
    return same and one.dim == other.dim and (one.shape[one.dim] == 1) == (other.shape[other.dim] == 1)

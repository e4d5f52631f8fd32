"""What the functions of repeated steps receive: the rules, and the checks of their losses and scores in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from diagnostics.auditing.probes.operations import (
    loss_arguments,
    loss_inputs,
    loss_targets,
    origin_checks,
    sample_mixing,
    term_sizes,
)
from diagnostics.auditing.probes.operations.placed import Placed, one_owner
from diagnostics.auditing.probes.operations.score_checks import SOFTMAX001, find_hard, judge_scores
from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.findings import Finding
from diagnostics.rules.rule import CRITICAL, LITTLE_USED, NOTE, WARNING, Family, Rule
from diagnostics.testing.output_assertions import LEAK001
from diagnostics.testing.output_assertions import OVER_SAMPLES as NORMALISED

LOSS003 = Rule(
    "LOSS003",
    CRITICAL,
    "A loss function receives unsuitable arguments",
    "operations",
    "Give the function the input and the targets that its documentation describes, in the same shape.",
    source="audit",
    by_operations=True,
    arguments="audit",
    causes=(
        *loss_inputs.CAUSES,
        *loss_targets.CAUSES,
        *sample_mixing.CAUSES,
        *loss_arguments.CAUSES,
        *origin_checks.CAUSES,
        term_sizes.OUT_OF_REACH,
    ),
    what="In repeated steps a loss function receives unsuitable arguments: probabilities or logarithms although it"
    " applies softmax or sigmoid itself, shapes that broadcast, exchanged arguments, scores that mix several"
    " rows, or targets that are equal, out of range, several at once, or the current token instead of the"
    " next (a note if the model reads later tokens). A warning for arguments that are legal but rarely"
    " intended: targets that are random, interpolated, padding, the maximum over all samples or trained too;"
    " scores that are dropped out or far too large.",
    why="The loss falls only to a floor far above the best value that the model could reach.",
    example="`cross_entropy(logits.softmax(1), labels)`; `mse_loss(output, target)` of (B, 1) and (B,).",
    false_alarms="One class in all audited batches.",
    explains=LITTLE_USED | {"GRAD005", "REACH007", "RESPONSE003"},
    upstream=frozenset({"COV001", "COV002", "WASTE001", "GRAD002", "REACH002", "UNITS002", "RESPONSE003"}),
    rank=4,
)
FAMILY = Family(127, "Loss and its gradient", (LOSS003, SOFTMAX001))
_SEVERITIES = {loss_targets.TARGET_IS_INPUT.code: NOTE} | dict.fromkeys(
    (
        loss_targets.FINDS_ITSELF.code,
        loss_inputs.CUT_OFF.code,
        loss_targets.ONE_CLASS.code,
        loss_targets.CLASS_IGNORED.code,
        loss_inputs.DROPPED.code,
        loss_arguments.SMOOTHED_AWAY.code,
        term_sizes.OUT_OF_REACH.code,
        *(each.code for each in origin_checks.CAUSES),
    ),
    WARNING,
)
"""Code of a cause -> its severity, where it is another one than the rule's."""


def check_operations(
    traces: Sequence[OperationTrace], samples: int, owner: Callable[[str], str]
) -> list[Finding]:
    """The findings in the operations of repeated steps.

    Args:
        traces: One per step, of different batches.
        samples: Number of samples in a batch.
        owner: Function full name of a module -> the innermost watched module that contains it.
    """
    if not traces:
        return []
    judged = chain(
        ((LOSS003, *placed) for placed in _judge_losses(traces, samples)),
        ((SOFTMAX001, *placed) for placed in judge_scores(traces, samples, owner)),
    )
    causes = (
        rule.found_once(one_owner(modules, owner), cause, _SEVERITIES.get(cause.code))
        for rule, modules, cause in judged
    )
    found: dict[tuple[str, str, str], Finding] = {}
    for each in (*causes, *find_hard(traces, owner), *_find_normalized(traces, samples)):
        found.setdefault((each.rule, each.module, each.code), each)
    codes = {code for _, _, code in found}
    if loss_inputs.CLASSES_MISREAD.code in codes:  # the loss shows what its view does
        return [each for each in found.values() if each.code != sample_mixing.EXCHANGED_BY_VIEW.code]
    return list(found.values())


def _judge_losses(traces: Sequence[OperationTrace], samples: int) -> Iterator[Placed]:
    yield from loss_inputs.judge_inputs(traces)
    yield from loss_targets.judge_targets(traces, samples)
    for cause in origin_checks.judge_values(traces):
        yield (), cause
    for operation, cause in loss_arguments.judge_arguments(traces):
        yield (operation.module,), cause
    for far in term_sizes.far_targets(traces):
        facts = {"distance": term_sizes.distance(far), "size": term_sizes.size(far)}
        yield (far.operation.module,), term_sizes.OUT_OF_REACH.of(**facts, operation=far.operation)
    yield from sample_mixing.judge_shapes(traces, samples)


def _find_normalized(traces: Sequence[OperationTrace], samples: int) -> Iterator[Finding]:
    """What is normalised over the samples, where a loss compares classes of each."""
    if not all(judges_samples(trace, samples) for trace in traces):
        return
    for call in traces[0].scores.normalized:
        if call.dim == 0 and call.shape[0] == samples > 1 and len(call.shape) == 2 and call.shape[1] > 1:
            yield LEAK001.found_once("", NORMALISED.of(operation=call.operation), WARNING)


def judges_samples(trace: OperationTrace, samples: int) -> bool:
    """Whether a loss compares classes of each sample: what is normalised over samples is then not meant to be."""
    return any(
        call.operation.name in ("cross_entropy", "nll_loss")
        and not call.target.is_floating_point()
        and tuple(call.target.shape) == (samples,)
        and call.values.dim() == 2
        and call.values.shape[1] != samples
        for call in trace.losses.compared
    )

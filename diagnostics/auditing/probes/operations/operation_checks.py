"""What the functions of one step receive.

Found are probabilities where logits are expected, shapes that broadcast, a softmax over one element or over samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from diagnostics.auditing.probes.operations import loss_arguments, origin_checks, term_sizes
from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.auditing.tracing.recorded_calls import LossCall, PairCall, Pick, SoftmaxCall
from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.rules.rule import CRITICAL, LITTLE_USED, NOTE, WARNING, Family, Rule
from diagnostics.testing.output_assertions import LEAK001
from diagnostics.testing.output_assertions import OVER_SAMPLES as NORMALISED

TWICE = Cause(
    "applied-twice", "its input is the result of {kind}, and the function applies one itself: {operation}"
)
NOT_LOGARITHMS = Cause(
    "not-logarithms", "the function expects logarithms of probabilities, its input is {found}: {operation}"
)
BROADCAST = Cause(
    "broadcast",
    "an input of shape {input} against a target of shape {target} is averaged over all pairs: {operation}",
)
EXCHANGED = Cause(
    "exchanged",
    "its input is probabilities without gradient, and its target has the gradient: {operation}",
    remedy="Exchange the arguments: the input comes first, then the target.",
)
EQUAL_TARGETS = Cause("equal-targets", "all targets of all batches are {value:g}: {operation}")
TARGET_IS_INPUT = Cause("target-is-input", "each target is the input at the same place: {operation}")
NOT_SHIFTED = Cause(
    "not-shifted",
    "each target is the token at its place, and the model looks at no later one: {operation}",
    remedy="Shift the targets: logits[:, :-1] against tokens[:, 1:].",
)
OUT_OF_RANGE = Cause(
    "out-of-range",
    "a share of {share:.2g} of the targets lies outside {low:g} to {high:g}, which is all that {kind}() gives:"
    " {operation}",
    remedy="Scale the targets into the range, or let the model end with a linear layer.",
)
NOT_PROBABILITIES = Cause(
    "not-probabilities",
    "targets from {low:g} to {high:g} are no probabilities, so that the loss has no lower bound: {operation}",
    remedy="Give targets from 0 to 1: divide images by 255, and turn -1 and 1 into 0 and 1.",
)
FINDS_ITSELF = Cause(
    "finds-itself",
    "the scores are similarities of each row with all rows, and the right answer of each is itself: {operation}",
    remedy="Mask the diagonal, and let each row find its other view.",
)
CUT_OFF = Cause(
    "activation-on-logits",
    "its input is the result of relu(), so that no logit is below 0: {operation}",
    remedy="Let the model end with a linear layer.",
)
ONE_CLASS = Cause(
    "one-class-per-batch",
    "all targets of a batch are of one class, in each batch of another: {operation}",
    remedy="Shuffle: DataLoader(..., shuffle=True).",
)
CLASS_IGNORED = Cause(
    "class-ignored",
    "ignore_index is {ignored}, the number of a class that {operation} has a score for, and a share of {share:.2g} of"
    " the targets are left out",
    remedy="Give padding a label of its own, such as -100.",
)
PADDING_COUNTED = Cause(
    "padding-counted",
    "a share of {share:.2g} of its targets is {padding}, the padding_idx of {module}, and they count: {operation}",
    remedy="Give cross_entropy ignore_index={padding}, or mask these places.",
)
SHIFTED_AGAIN = Cause(
    "shifted-again",
    "each target is the token {lag} places after its output, and the model is causal: {operation}",
    remedy="Shift once: a dataset, or a loss inside the model, does it already.",
)
TARGET_DRAWN = Cause(
    "target-drawn",
    "its target is a random draw of the step, and another draw changes nothing that the model computes: {operation}",
    remedy="Draw once, and use the same tensor in the input and as the target.",
)
DROPPED = Cause(
    "dropout-on-outputs",
    "its input is the result of a dropout, so that a share of the outputs is 0 in each step: {operation}",
    remedy="Move the dropout before the last layer.",
)
SCORE_DRAWN = Cause(
    "score-drawn-again",
    "the log-probability is that of a draw on which its weight in the loss does not depend, so that its gradient is"
    " zero on average: {operation}",
    remedy="Draw once: score the action that was taken and rewarded.",
)
PAIRS = Cause(
    "broadcast-by-hand",
    "a column {column} meets a vector {vector}, which gives all pairs of samples: {operation}",
    remedy="Bring both to one shape before: column.squeeze(1), or vector.unsqueeze(1).",
)
NOT_SIGNS = Cause(
    "not-signs",
    "targets are {low:g} to {high:g} where the function takes -1 and 1: {operation}",
    remedy="Give 2 * target - 1.",
)
CLASSES_MISREAD = Cause(
    "classes-misread",
    "the scores of one answer are numbers from several rows of the layer before: {operation}",
    remedy="Move the dimension of the classes with transpose(), permute() or movedim(); view() and reshape() only cut"
    " the numbers at other places.",
)
EXCHANGED_BY_VIEW = Cause(
    "dimensions-exchanged-by-view",
    "{operation} gives a tensor of shape {before} the shape {after}: it cuts the numbers elsewhere, and a row then"
    " holds those of several samples",
    remedy="Exchange dimensions with transpose() or permute().",
)
PICKS_SAMPLES = Cause(
    "picks-samples",
    "an index of {samples} numbers below {choices} picks along the samples, where it could pick one of {choices}"
    " choices of each: {operation}",
    remedy="Pick along the choices: gather(1, index).",
)
NEVER_WRITTEN = Cause(
    "scores-never-written",
    "a share of {share:.2g} of its rows count and have only zeros as scores, which nothing has computed: {operation}",
    remedy="Leave them out of the loss, such as the first step of a decoder: scores[1:] against targets[1:].",
)
LOSS003 = Rule(
    "LOSS003",
    CRITICAL,
    "A loss function receives what it does not expect",
    "operations",
    "Give the function the input and the targets that its documentation names, in the same shape.",
    source="audit",
    arguments="audit",
    causes=(
        TWICE,
        NOT_LOGARITHMS,
        BROADCAST,
        EXCHANGED,
        EQUAL_TARGETS,
        TARGET_IS_INPUT,
        NOT_SHIFTED,
        OUT_OF_RANGE,
        NOT_PROBABILITIES,
        FINDS_ITSELF,
        CUT_OFF,
        ONE_CLASS,
        CLASS_IGNORED,
        SHIFTED_AGAIN,
        TARGET_DRAWN,
        SCORE_DRAWN,
        DROPPED,
        PAIRS,
        NOT_SIGNS,
        CLASSES_MISREAD,
        EXCHANGED_BY_VIEW,
        PICKS_SAMPLES,
        NEVER_WRITTEN,
        *loss_arguments.CAUSES,
        *origin_checks.CAUSES,
        PADDING_COUNTED,
        term_sizes.OUT_OF_REACH,
    ),
    what="In repeated steps a loss receives what does not fit it: probabilities or logarithms where it applies softmax"
    " or sigmoid itself, shapes that broadcast, exchanged arguments, scores from several rows, or targets that are"
    " equal, out of range, several at once, or the token at their place (a note if the model reads later ones). A"
    " warning for what is legal and hardly meant: targets that are drawn, blended, padding, the best of all samples or"
    " trained too; scores that pass a dropout, or are far too large. `etrm explain LOSS003` lists all causes.",
    why="The loss falls, to a floor far above what the model could reach.",
    example="`cross_entropy(logits.softmax(1), labels)`; `mse_loss(output, target)` of (B, 1) and (B,).",
    false_alarms="One class in all audited batches.",
    explains=LITTLE_USED | {"RESPONSE003"},
    upstream=frozenset({"COV001", "COV002", "WASTE001", "GRAD002", "REACH002", "UNITS002", "RESPONSE003"}),
    rank=4,
)
ONE_ELEMENT = Cause(
    "one-element",
    "the softmax is over one element, so that it is 1 whatever the input is: {operation}",
    remedy="Apply softmax before topk(), or use sigmoid for a single gate.",
)
OVER_SAMPLES = Cause(
    "over-samples",
    "the softmax is over dimension 0, which holds the samples of the batch: {operation}",
    remedy="Choose the dimension of what competes, usually dim=-1.",
)
OTHER_DIMENSION = Cause(
    "other-dimension",
    "the softmax is over dimension {dim}, and the product that uses its weights sums over another one, so that the"
    " weights of a query do not sum to 1: {operation}",
    remedy="Apply softmax over the keys, dim=-1 of scores of shape (..., queries, keys).",
)
ONE_HOT = Cause(
    "one-hot",
    "one element has all the weight in nearly every row, so that hardly any gradient passes: {operation}",
    remedy="Scale the scores down: divide them by the root of the width, or by a temperature near 1.",
)
READS_PADDING = Cause(
    "reads-padding-alone",
    "the keys that its mask keeps are the same in all samples, those that it hides are not: {operation}",
    remedy="Invert the mask: key_padding_mask is True where a key is hidden, a Boolean attn_mask of"
    " scaled_dot_product_attention where it is kept.",
)
MASK_MULTIPLIED = Cause(
    "mask-multiplied",
    "a mask of zeros and ones is multiplied with the scores or added to them: masked elements keep a weight of exp(0),"
    " {operation}",
    remedy="scores.masked_fill(mask == 0, -torch.inf) before the softmax.",
)
ALWAYS_FLAT = Cause(
    "flat-for-all-weights",
    "the scores of a row differ by {spread:.2g} at most, also where weights are ten times as large, so that all classes"
    " stay nearly as likely: {operation}",
    remedy="Divide cosines by a temperature such as 0.07, do not multiply them with it.",
)
LATER_ALONE = Cause(
    "sees-later-alone",
    "the mask of an attention shows no place an earlier one, and nearly every place later ones: {operation}",
    remedy="A causal mask is lower triangular: torch.ones(T, T).tril() where True is seen.",
)
SOFTMAX001 = Rule(
    "SOFTMAX001",
    WARNING,
    "A softmax over the wrong elements, or too hard",
    "operations",
    "Choose the dimension whose elements compete, or smaller scores.",
    source="audit",
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
    what="In each repeated step a trained softmax sums over a dimension of size 1, over the samples of the batch, or"
    " over heads or queries of an attention, or gives one element all the weight; a mask is multiplied with its scores;"
    " the mask of an attention keeps only keys that are the same in all samples; or no weights make the scores of a"
    " cross entropy differ.",
    why="A softmax of one element has no gradient; over samples, each prediction depends on the other samples.",
    example="`logits.topk(1).values.softmax(-1)` as the gate of a mixture of experts; `nn.Softmax(dim=0)`.",
    false_alarms="A batch that is one bag or graph; attention over a single key; a trained gate that is certain;"
    " queries that compete for keys, unless their weights are divided by a sum.",
    explains=frozenset({"REACH002", "GRAD002", "GRAD005", "LEAK001", "COLLAPSE001", *LITTLE_USED}),
    rank=8,
)
FAMILY = Family(127, "Operations of the step", (LOSS003, SOFTMAX001))

_SQUASHED = {
    "cross_entropy": ("softmax", "sigmoid"),
    "binary_cross_entropy_with_logits": ("sigmoid", "softmax"),
}
"""Loss -> what its input must not have passed through: it applies softmax or sigmoid itself."""
_CUT_OFF = dict.fromkeys(_SQUASHED, ("relu",))
"""Loss -> what would leave it only logits from 0 on."""
_LOGARITHMIC = ("nll_loss", "kl_div")
_AVERAGED = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")


def check_operations(
    traces: Sequence[OperationTrace], samples: int, owner: Callable[[str], str]
) -> list[Finding]:
    """The findings in the operations of repeated steps.

    Args:
        traces: One per step, of different batches.
        samples: Number of samples in a batch.
        owner: Function full name of a module -> the innermost watched module that contains it.
    """
    found: dict[tuple[str, str, str], Finding] = {}
    for first in traces[0].losses.compared if traces else ():
        for cause in _judge_loss(first):
            _add(found, LOSS003, owner(first.operation.module), cause)
        for cause in _judge_targets(first, traces):
            _add(found, LOSS003, owner(first.operation.module), cause)
        ignored = _ignored_class(first, traces, samples)
        if ignored is not None:
            _add(found, LOSS003, owner(first.operation.module), ignored)
        if first.kind in _CUT_OFF.get(first.operation.name, ()):
            (module, *_) = [owner(each) for each in first.sources] or [""]
            _add(found, LOSS003, module, CUT_OFF.of(operation=first.operation))
    for cause in origin_checks.judge_values(traces):
        _add(found, LOSS003, "", cause)
    for operation, cause in loss_arguments.judge_arguments(traces):
        _add(found, LOSS003, owner(operation.module), cause)
    for far in term_sizes.far_targets(traces):
        facts = {"distance": term_sizes.distance(far), "size": term_sizes.size(far)}
        cause = term_sizes.OUT_OF_REACH.of(**facts, operation=far.operation)
        _add(found, LOSS003, owner(far.operation.module), cause)
    for sources, cause in (*_find_pairs(traces, samples), *_find_picked_samples(traces, samples)):
        _add(found, LOSS003, one_owner(sources, owner), cause)
    by_place = (
        _find_unsigned(traces),
        _find_unwritten(traces),
        _find_exchanged(traces, samples),
        _find_unnormalised(traces),
    )
    for cause in (each for found_there in by_place for each in found_there):
        _add(found, LOSS003, "", cause)
    for equal in (_equal_targets(traces), _one_class(traces)):
        if equal is not None:
            _add(found, LOSS003, owner(traces[0].losses.compared[0].operation.module), equal)
    for softmax in traces[0].scores.softmaxes if traces else ():
        every = all(any(_alike(softmax, other) for other in trace.scores.softmaxes) for trace in traces)
        if every and _is_hard(softmax, traces):
            _add_hard(found, softmax, owner)
        for cause in _judge_softmax(softmax, samples) if every else ():
            module = owner(softmax.operation.module) or one_owner(softmax.sources, owner)
            _add(found, SOFTMAX001, module, cause)
        if every and not _sums_over_weights(softmax, traces):
            cause = OTHER_DIMENSION.of(dim=softmax.dim, operation=softmax.operation)
            _add(found, SOFTMAX001, owner(softmax.operation.module), cause)
    for attention in traces[0].scores.attentions if traces else ():
        place = attention.operation.place
        alike = [
            [each for each in trace.scores.attentions if each.operation.place == place] for trace in traces
        ]
        if all(any(each.reads_constant for each in calls) for calls in alike) and attention.reads_constant:
            cause = READS_PADDING.of(operation=attention.operation)
            _add(found, SOFTMAX001, owner(attention.operation.module), cause)
    for operation in traces[0].scores.backward_masks if traces else ():
        if all(
            any(each.place == operation.place for each in trace.scores.backward_masks) for trace in traces
        ):
            _add(found, SOFTMAX001, owner(operation.module), LATER_ALONE.of(operation=operation))
    if traces and all(judges_samples(trace, samples) for trace in traces):
        for call in traces[0].scores.normalized:
            if call.dim == 0 and call.shape[0] == samples > 1 and len(call.shape) == 2 and call.shape[1] > 1:
                cause = NORMALISED.of(operation=call.operation)
                found[LEAK001.id, "", cause.code] = LEAK001.found_once("", cause, WARNING)
    return list(found.values())


_SEVERITIES = {TARGET_IS_INPUT.code: NOTE} | dict.fromkeys(
    (
        FINDS_ITSELF.code,
        CUT_OFF.code,
        ONE_CLASS.code,
        CLASS_IGNORED.code,
        DROPPED.code,
        loss_arguments.SMOOTHED_AWAY.code,
        term_sizes.OUT_OF_REACH.code,
        *(each.code for each in origin_checks.CAUSES),
    ),
    WARNING,
)


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


def _add(found: dict[tuple[str, str, str], Finding], rule: Rule, module: str, cause: Cause) -> None:
    severity = _SEVERITIES.get(cause.code)
    found.setdefault((rule.id, module, cause.code), rule.found_once(module, cause, severity))


def _add_hard(
    found: dict[tuple[str, str, str], Finding], call: SoftmaxCall, owner: Callable[[str], str]
) -> None:
    """One finding, which lists the modules that the scores come from."""
    first, *others = sorted({owner(name) for name in call.sources}) or [owner(call.operation.module)]
    cause = ONE_HOT.of(operation=call.operation)
    held = tuple(SOFTMAX001.found_once(module, cause) for module in others)
    finding = replace(SOFTMAX001.found_once(first, cause), consequences=held)
    found.setdefault((SOFTMAX001.id, first, cause.code), finding)


def _judge_loss(call: LossCall) -> Iterator[Cause]:
    name, operation = call.operation.name, call.operation
    if call.kind in _SQUASHED.get(name, ()):
        yield TWICE.of(kind=call.kind, operation=operation)
    if name in _LOGARITHMIC:
        positive = bool((call.values > 0).any())
        sums = _sum_of_classes(call) if name == "nll_loss" and not positive else 1.0
        if call.kind in ("softmax", "sigmoid") or (name == "nll_loss" and positive):
            yield NOT_LOGARITHMS.of(found=call.kind or "positive in places", operation=operation)
        elif abs(sums - 1) > _OTHER_SUM:
            yield NOT_LOGARITHMS.of(found=f"of classes that sum to {sums:.2g}", operation=operation)
    if name in _AVERAGED and call.values.shape != call.target.shape:
        pairs = math.prod(torch.broadcast_shapes(call.values.shape, call.target.shape))
        if pairs > max(call.values.numel(), call.target.numel()):
            shapes = {"input": tuple(call.values.shape), "target": tuple(call.target.shape)}
            yield BROADCAST.of(**shapes, operation=operation)
    if name in _SQUASHED and call.learns_target and _are_probabilities(call.values, name):
        yield EXCHANGED.of(operation=operation)
    if name == "cross_entropy" and call.copied:
        yield TARGET_IS_INPUT.of(operation=operation)
    if call.kind == "dropout":
        yield DROPPED.of(operation=operation)
    if call.misread:
        yield CLASSES_MISREAD.of(operation=operation)


_OTHER_SUM = 0.1
"""Distance from 1 of the sum of all classes, from which they are no probabilities: rounding is less."""


def _sum_of_classes(call: LossCall) -> float:
    """The middle sum of the exponentials over the classes; 1.0 where there is one class."""
    dim = -1 if call.operation.name == "ctc_loss" else 1
    values = call.values.float()
    if values.dim() <= 1 or values.shape[dim] < 2 or not values.numel():
        return 1.0
    return float(values.logsumexp(dim).median().exp())


def _find_unnormalised(traces: Sequence[OperationTrace]) -> Iterator[Cause]:
    """Losses of alignments that are given no probabilities over the classes."""
    every = [[_sum_of_classes(call) for call in trace.losses.alignments] for trace in traces]
    if every and all(sums and all(abs(each - 1) > _OTHER_SUM for each in sums) for sums in every):
        found = f"of classes that sum to {every[0][0]:.2g}"
        yield NOT_LOGARITHMS.of(found=found, operation=traces[0].losses.alignments[0].operation)


def one_owner(sources: Iterable[str], owner: Callable[[str], str]) -> str:
    """The watched module that all sources are in, "" where there are several."""
    owners = {owner(each) for each in sources}
    return owners.pop() if len(owners) == 1 else ""


def _find_pairs(traces: Sequence[OperationTrace], samples: int) -> Iterator[tuple[Sequence[str], Cause]]:
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


def _find_unsigned(traces: Sequence[OperationTrace]) -> Iterator[Cause]:
    """Losses that take -1 and 1, and never receive a negative target."""
    for call in traces[0].losses.signed if traces else ():
        place = call.operation.place
        targets = [
            each.target for trace in traces for each in trace.losses.signed if each.operation.place == place
        ]
        values = torch.cat([each.flatten().float() for each in targets])
        if len(values) and bool((values >= 0).all()) and bool((values == 0).any()):
            low, high = float(values.min()), float(values.max())
            yield NOT_SIGNS.of(low=low, high=high, operation=call.operation)


def _find_picked_samples(
    traces: Sequence[OperationTrace], samples: int
) -> Iterator[tuple[Sequence[str], Cause]]:
    """Where each step picks with one number per sample along the samples, and no number is too large for a choice."""
    for pick in traces[0].scores.picks if traces else ():
        place = pick.operation.place
        alike = [each for trace in traces for each in trace.scores.picks if each.operation.place == place]
        if len(alike) >= len(traces) and all(_picks_samples(each, samples) for each in alike):
            facts = {"samples": samples, "choices": pick.shape[1]}
            yield pick.sources, PICKS_SAMPLES.of(**facts, operation=pick.operation)
            return


def _find_exchanged(traces: Sequence[OperationTrace], samples: int) -> Iterator[Cause]:
    """Views in each step that move the dimension of the samples away from the first place, or to it."""
    places = [
        {
            operation.place
            for operation, before, after in each.shapes.exchanges
            if samples in (before[0], after[0])
        }
        for each in traces
    ]
    common = set.intersection(*places) if places else set()
    for operation, before, after in traces[0].shapes.exchanges if traces else ():
        if operation.place in common and samples > 1:
            yield EXCHANGED_BY_VIEW.of(operation=operation, before=before, after=after)
            return


def _picks_samples(pick: Pick, samples: int) -> bool:
    if pick.dim != 0 or len(pick.shape) != 2 or pick.shape[0] != samples or pick.index.numel() != samples:
        return False
    choices = pick.shape[1]
    return 1 < choices <= samples // 4 and int(pick.index.max()) < choices


def _find_unwritten(traces: Sequence[OperationTrace]) -> Iterator[Cause]:
    """Cross entropies that count rows without scores in each step, and rows with scores too."""
    for call in traces[0].losses.compared if traces else ():
        place = call.operation.place
        alike = [
            [each for each in trace.losses.compared if each.operation.place == place] for trace in traces
        ]
        calls = [each for group in alike for each in group]
        plain = not any(each.kind in ("dropout", "relu") for each in calls)
        if all(alike) and plain and all(0 < each.unwritten < 1 for each in calls):
            yield NEVER_WRITTEN.of(share=call.unwritten, operation=call.operation)
            return


_RANGES = {"sigmoid": (0.0, 1.0), "softmax": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, math.inf)}
"""Last function of a model -> what it gives."""
_OUTSIDE = 0.1
"""Share of the targets outside the range from which it is no matter of outliers."""
_FAR = 1.5
"""Distance from one half from which even a single target is no noisy probability: 2 and more, or -1 and less."""
_MARGIN = 1e-2  # targets at the end of the range are rounded, or have a little noise


def _judge_targets(call: LossCall, traces: Sequence[OperationTrace]) -> Iterator[Cause]:
    """What is wrong with the targets of the calls in one place, if it is so in every step."""
    place = call.operation.place
    alike = [[each for each in trace.losses.compared if each.operation.place == place] for trace in traces]
    calls = [each for group in alike for each in group]
    if not all(alike) or any(not each.target.numel() for each in calls):
        return
    low, high = _RANGES.get(call.kind, (-math.inf, math.inf))
    name, operation = call.operation.name, call.operation
    if name in _AVERAGED and all(each.kind == call.kind for each in calls):
        share = min(_share_outside(each.target, low - _MARGIN, high + _MARGIN) for each in calls)
        if share > _OUTSIDE:
            yield OUT_OF_RANGE.of(share=share, low=low, high=high, kind=call.kind, operation=operation)
    if name == "binary_cross_entropy_with_logits":
        outside = min(_share_outside(each.target, -_MARGIN, 1 + _MARGIN) for each in calls)
        far = all(bool(((each.target - 0.5).abs() > _FAR).any()) for each in calls)
        if outside > _OUTSIDE or far:
            least, most = float(call.target.min()), float(call.target.max())
            yield NOT_PROBABILITIES.of(low=least, high=most, operation=operation)
    if name == "cross_entropy" and all(map(_finds_itself, calls)):
        yield FINDS_ITSELF.of(operation=operation)


def _share_outside(targets: Tensor, low: float, high: float) -> float:
    return float(((targets < low) | (targets > high)).float().mean())


def _finds_itself(call: LossCall) -> bool:
    """Whether the scores are a matrix of similarities to itself, and the targets are on its diagonal."""
    scores, target = call.values, call.target
    square = scores.dim() == 2 and scores.shape[0] == scores.shape[1] > 2
    if not square or target.is_floating_point() or target.shape != scores.shape[:1]:
        return False
    own = bool((target == torch.arange(len(target), device=target.device)).all())
    known = scores.masked_fill(scores < -1e4, 0.0)  # masked ones
    size = float(known.abs().max())
    return own and size > 0 and bool((known - known.T).abs().max() <= 1e-4 * size)


def _are_probabilities(values: Tensor, loss: str) -> bool:
    """Whether all lie in 0 to 1, and sum to 1 over the classes of a cross entropy."""
    if not bool(((values >= 0) & (values <= 1)).all()):
        return False
    return loss != "cross_entropy" or values.dim() < 2 or bool((values.sum(1) - 1).abs().max() < _SUM)


def _equal_targets(traces: Sequence[OperationTrace]) -> Cause | None:
    """Whether the data has one value as the target of all losses of all steps; a real target has at least two."""
    calls = [call for trace in traces for call in trace.losses.compared if call.operation.name != "kl_div"]
    values = [call.target.detach().flatten() for call in calls]
    if (
        len(traces) < _BATCHES
        or not values
        or any(call.made for call in calls)
        or any(not len(each) for each in values)
    ):
        return None
    first = values[0][0]
    if sum(len(each) for each in values) < _TARGETS or not all(
        bool((each == first).all()) for each in values
    ):
        return None
    return EQUAL_TARGETS.of(value=float(first), operation=calls[0].operation)


def _one_class(traces: Sequence[OperationTrace]) -> Cause | None:
    """Whether all classification targets of each step are equal, and other ones in another step."""
    seen = set()
    for trace in traces:
        calls = [call for call in trace.losses.compared if call.operation.name in _CLASSIFYING]
        values = torch.cat([call.target.flatten().double() for call in calls]) if calls else torch.zeros(0)
        if len(values) < _ONE_CLASS or bool((values != values[0]).any()) or any(call.made for call in calls):
            return None
        if any(_is_one_row(given) for given in trace.reads.given):
            return None  # one sample has one class
        seen.add(float(values[0]))
    first = next((call for trace in traces for call in trace.losses.compared), None)
    several = len(traces) > _BATCHES and len(seen) > 1
    return ONE_CLASS.of(operation=first.operation) if several and first is not None else None


def _is_one_row(given: Tensor) -> bool:
    several = given.is_floating_point() and given.dim() > 1 and len(given) > 1
    return several and bool((given == given[:1]).all())


_CLASSIFYING = ("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits")
_ONE_CLASS = 8
"""Targets of a batch that must be equal: of two classes in equal shares, eight are in one batch of 128."""
_INSIDE = 0.05  # share of the ignored targets between others of their row; of padding at one end it is 0


def _ignored_class(call: LossCall, traces: Sequence[OperationTrace], samples: int) -> Cause | None:
    """A class that the loss ignores, where the ignored targets are no padding, and no mask that leaves out most."""
    classes = call.values.shape[1] if call.values.dim() > 1 else 0
    if call.ignored is None or not 0 <= call.ignored < classes:
        return None
    place = call.operation.place
    calls = [each for trace in traces for each in trace.losses.compared if each.operation.place == place]
    hit = [each.target == call.ignored for each in calls if each.target.numel()]
    if not hit or any(each.numel() % samples for each in hit):
        return None
    rows = torch.cat([each.reshape(samples, -1) for each in hit if each.numel() == hit[0].numel()])
    share = float(rows.float().mean())
    inside = rows if rows.shape[1] == 1 else rows & _has_others_around(rows)
    if not 0 < share < 0.5 or float(inside.sum()) <= _INSIDE * float(rows.sum()):
        return None
    return CLASS_IGNORED.of(ignored=call.ignored, operation=call.operation, share=share)


def _has_others_around(hit: Tensor) -> Tensor:
    """(rows, T): whether somewhere before and somewhere after a place there is one that is not hit."""
    others = (~hit).int()
    return (others.cumsum(1) > 0) & (others.flip(1).cumsum(1).flip(1) > 0)


_HARD = 0.9  # share of the rows
_SUM = 1e-3  # distance from 1 of a sum of probabilities, in half precision
_BATCHES = 2  # one batch may hold one class by chance
_TARGETS = 32
"""Targets that must be equal: of two classes of which one has 90 % of the data, 32 are equal in 3 % of the cases."""


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

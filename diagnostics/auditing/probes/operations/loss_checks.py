"""Whether a loss is minimised that should be, and whether the gradient is that of the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from diagnostics.auditing.observed_step import ObservedStep
from diagnostics.auditing.probes.operations.function_checks import check_functions
from diagnostics.auditing.probes.operations.operation_checks import LOSS003
from diagnostics.auditing.probes.operations.origin_checks import judge_graphs
from diagnostics.auditing.probes.operations.placed import one_owner
from diagnostics.auditing.probes.operations.sample_mixing import broadcast_cause
from diagnostics.auditing.probes.operations.term_sizes import check_sizes
from diagnostics.auditing.probes.operations.unit_checks import check_clamps
from diagnostics.auditing.responses import is_same
from diagnostics.auditing.tracing.loss_terms_added import differing
from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.auditing.tracing.recorded_calls import LossCall, PairCall
from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.recording.random_numbers import RandomState
from diagnostics.recording.tensors import real_view
from diagnostics.rules.rule import CRITICAL, NOTE, WARNING, Family, Rule

LOSS_FUNCTION_RAISED = Cause(
    "loss-function-raised",
    "the loss falls while {operation} rises, so it has the wrong sign",
    remedy="Remove the minus sign in front of the loss function.",
)
LIKELIHOOD_LOWERED = Cause(
    "likelihood-lowered",
    "the loss falls while the log-probabilities of {operation} fall: the minus sign of the likelihood is missing",
    remedy="Minimise the negative log-likelihood.",
)
MAXIMISED = Cause(
    "maximised",
    "the optimiser has maximize=True, so each update raises the loss of {operation}",
    remedy="Leave maximize=True out, or give it the gain: minus the loss.",
)
GRADIENT_NEGATED = Cause(
    "gradient-negated",
    "a small step against the gradient raises the loss, so the gradient has the wrong sign",
    remedy="Find the code that negates it: a hook, a backward() of your own, or maximize=True.",
)
OPPONENTS_AGREE = Cause(
    "opponents-agree",
    "{judge} judges the output of {maker} twice, once without a graph, and both losses move the judgement in"
    " the same direction, so the two do not oppose each other",
    remedy="Give the loss of the generator the opposite label: fill_(real) before it, or a minus sign.",
)
LOSS004 = Rule(
    "LOSS004",
    CRITICAL,
    "Training increases a loss that it should decrease",
    "operations",
    "Find the wrong sign.",
    source="audit",
    by_operations=True,
    arguments="audit",
    causes=(LOSS_FUNCTION_RAISED, LIKELIHOOD_LOWERED, MAXIMISED, GRADIENT_NEGATED, OPPONENTS_AGREE),
    what="An audit repeats steps. The loss falls while every loss function in it rises, or while the"
    " log-probabilities fall that it picks with equal weight; or the loss rises along the negative gradient,"
    " in every watched module. A warning: the losses of a generator and its critic do not oppose each other.",
    why="Each step makes the model worse.",
    example="`loss = model(x).log_softmax(1).gather(1, y).mean()`; a hook that returns `-gradient`.",
    false_alarms="A loss that is raised on purpose, as in unlearning and adversarial training.",
    rank=5,
)
ONE_TARGET = Cause(
    "one-target",
    "only targets of value {value:g} have a gradient: {operation}",
    remedy="Check the mask: it may keep the padding and drop the tokens.",
)
LOSS005 = Rule(
    "LOSS005",
    CRITICAL,
    "Only targets with one value count in the loss",
    "operations",
    "Look at the mask of the loss.",
    source="audit",
    by_operations=True,
    arguments="audit",
    causes=(ONE_TARGET,),
    what="In every repeated step, the gradient at the input of a loss function is zero for every target except one"
    " value, although the targets have at least four values.",
    why="The model learns to predict one class.",
    example="`mask = tokens == padding; loss = (losses * mask).sum() / mask.sum()`.",
    false_alarms="A loss of one class on purpose.",
    explains=frozenset({"COV001", "COV002"}),
    rank=5,
)
CHANGED_UNSEEN = Cause(
    "changed-unseen",
    "a value that autograd saved was changed before the backward pass used it, and torch's version counter"
    " did not notice",
    remedy="Do not write to .data, to .detach() views or through numpy after a value was used; compute a new tensor.",
)
RECOMPUTED = Cause(
    "recomputed-differently",
    "a checkpoint runs it again in the backward pass, with other results for the same input",
    remedy="Keep preserve_rng_state=True of the checkpoint, and keep random operations outside of it.",
)
GRAD008 = Rule(
    "GRAD008",
    CRITICAL,
    "The gradient is computed with changed values",
    "operations",
    "Compute a new tensor instead of writing to one that was used.",
    source="audit",
    arguments="audit",
    causes=(CHANGED_UNSEEN, RECOMPUTED),
    what="An audit copies the values that autograd saves in the forward pass, and compares them when the backward"
    " pass uses them. It also compares outputs of modules that a checkpoint computes again.",
    why="The gradient does not belong to the loss, and torch reports no error.",
    example="`y = x.exp(); y.data.mul_(2)`: the derivative of exp() is read from y.",
    false_alarms="None known.",
    rank=6,
)
NO_GRAPH = Cause(
    "no-graph",
    "a term of the loss changes with the weights but has no graph, so training ignores it: {operation}",
    remedy="Compute the term from tensors: no .item(), .data or torch.tensor(), and create_graph=True in"
    " torch.autograd.grad().",
)
DETACHED_TERM = Cause("detached-term", "detach() makes a term of the loss a number: {operation}")
LOSS_UNTRAINED = Cause(
    "loss-untrained",
    "a loss is added although neither of its arguments has a graph, so it trains nothing: {operation}",
    remedy="Check its arguments: one of them must be an output of the trained model.",
)
ZERO_DERIVATIVE = Cause(
    "derivative-zero",
    "a loss is computed from a derivative that is 0 everywhere, as the second derivative of ReLU layers is:"
    " {operation}",
    remedy="Use smooth activations, such as tanh or SiLU, where a loss needs second derivatives.",
)
LOSS006 = Rule(
    "LOSS006",
    WARNING,
    "A term of the loss has no gradient",
    "operations",
    "Keep the term in the graph, or leave it out.",
    source="audit",
    arguments="audit",
    causes=(NO_GRAPH, DETACHED_TERM, LOSS_UNTRAINED, ZERO_DERIVATIVE),
    what="The sums that lead to the loss contain a number without a graph. The number changes with the weights"
    " (found by an audit; a note if detach() made it), or it is the result of a loss function whose two"
    " arguments have no graph. Or a derivative with `create_graph=True` by an input is 0 everywhere, in each step.",
    why="The reported loss contains the term, but training does not reduce it.",
    example="A gradient penalty without `create_graph=True`; `loss + 0.1 * weight.norm().item()`.",
    false_alarms="A number that is added for the log alone.",
)
FAMILY = Family(126, "Loss and its gradient", (LOSS004, LOSS005, LOSS006, GRAD008))

_TARGETS = 4
"""Values of targets from which a loss of one of them is odd: two classes may be a class and its absence."""
_EQUAL = 1e-3  # relative difference of the weights of picked log-probabilities: a mean has none, rewards have
_DROP = 1e-2
"""Expected change of the loss in a small step, relative to it."""
_LARGEST_STEP = 1e-2
"""Largest step, relative to the norm of the weights."""
_NEGATED = -0.5
"""Change of the loss in a small step over the expected one; it is 1 for a gradient, and -1 for a negated one."""


def check_loss(
    steps: Sequence[ObservedStep], owner: Callable[[str], str], ascends: bool = False
) -> list[Finding]:
    """GRAD008, GRAD009 and those of `check_arrived` in repeated steps, whose backward passes run here.

    Args:
        owner: Function full name of a module -> the innermost watched module that contains it.
        ascends: Whether the optimisers maximise.
    """
    if not steps:
        return []
    for each in steps:
        each.loss.backward(retain_graph=bool(each.functions))
    found = check_arrived([each.trace for each in steps], owner, ascends)
    found += check_functions([each.functions for each in steps], owner)
    for module in sorted(set.intersection(*(set(each.changed) for each in steps))):
        found.append(GRAD008.found_once(owner(module), CHANGED_UNSEEN))
    return found


def check_arrived(
    traces: Sequence[OperationTrace], owner: Callable[[str], str], ascends: bool
) -> list[Finding]:
    """LOSS004, LOSS005, LOSS007 and pairs that are averaged, by the gradients that came to what was recorded.

    Args:
        traces: Steps whose backward passes ran.
        owner: Function full name of a module -> the innermost watched module that contains it.
        ascends: Whether the optimisers maximise.
    """
    if not traces:
        return []
    found = []
    raised = [_raised(each, ascends) for each in traces]
    if raised[0] is not None and all(raised):
        found.append(LOSS004.found_once("", raised[0]))
    one = [_one_target(each) for each in traces]
    if one[0] is not None and all(one):
        found.append(LOSS005.found_once("", one[0]))
    pairs = [_averaged_pairs(each) for each in traces]
    if pairs[0] is not None and all(pairs):
        cause = broadcast_cause(pairs[0])
        found.append(LOSS003.found_once(one_owner(pairs[0].sources, owner), cause))
    found += [LOSS003.found_once("", cause, WARNING) for cause in judge_graphs(traces)]
    return [*found, *check_clamps(traces), *check_sizes(traces)]


def check_untrained(traces: Sequence[OperationTrace]) -> list[Finding]:
    """LOSS006 where each step adds a loss of which neither side has a graph."""
    added = [{each.place for each in trace.added.of_losses() if each.untrained} for trace in traces]
    places = sorted(set.intersection(*added)) if added else []
    return [LOSS006.found_once("", LOSS_UNTRAINED.of(operation=place)) for place in places[:1]]


def check_derivatives(traces: Sequence[OperationTrace]) -> list[Finding]:
    """LOSS006 where each step takes a derivative for a loss, and it is 0 everywhere."""
    for operation in traces[0].derivatives.zero if traces else ():
        place = operation.place
        if all(
            place in {each.place for each in trace.derivatives.zero} - trace.derivatives.others
            for trace in traces
        ):
            return [LOSS006.found_once("", ZERO_DERIVATIVE.of(operation=operation))]
    return []


def _averaged_pairs(trace: OperationTrace) -> PairCall | None:
    """Arithmetic of a column and a vector of which the loss needs the means alone, so that no pair was meant.

    That is so if all pairs count alike in the loss, and if it is the mean of the squared differences of predictions
    and targets: it pulls each prediction to the mean of all targets.
    """
    for call in trace.shapes.pairs:
        weights = call.at_result.value if call.meant else None
        if weights is None or not bool(weights.any()):
            continue
        if bool((weights == weights.flatten()[0]).all()) or (
            call.error and _is_multiple(weights, call.result)
        ):
            return call
    return None


def _is_multiple(gradient: Tensor, values: Tensor) -> bool:
    """Whether a gradient is the same multiple of each value, as that of a mean of squares is."""
    known = values.detach().to(gradient)
    factor = (gradient * known).sum() / known.square().sum()
    return bool((gradient - factor * known).abs().max() <= _EQUAL * gradient.abs().max())


def _raised(trace: OperationTrace, ascends: bool) -> Cause | None:
    """Which loss function or log-probability the updates raise or lower against its purpose, if all it has."""
    sign = -1 if ascends else 1  # of the slope over which an update lowers the number
    calls = [call for call in trace.losses.compared if call.result is not None and call.result.requires_grad]
    if any(call.made for call in calls):
        return None  # a GAN
    if calls:
        slopes = [call.at_result.value for call in calls]
        wrong = all(each is not None and _all_of_sign(each, -sign) for each in slopes)
        cause = MAXIMISED if ascends else LOSS_FUNCTION_RAISED
        return cause.of(operation=calls[0].operation) if wrong else None
    picked = trace.scores.logarithms
    slopes = [arrived.value for _, arrived in picked]
    if slopes and all(each is not None and _picks_equally(sign * each) for each in slopes):
        return (
            MAXIMISED.of(operation=picked[0][0]) if ascends else LIKELIHOOD_LOWERED.of(operation=picked[0][0])
        )
    return None


def _all_of_sign(values: Tensor, sign: int) -> bool:
    """Whether all that are not zero have this sign, and there are some."""
    known = _not_zero(values)
    return len(known) > 0 and bool((known.sign() == sign).all())


def _not_zero(values: Tensor) -> Tensor:
    flat = values.reshape(-1)
    return flat[flat != 0]


def _picks_equally(values: Tensor) -> bool:
    """Whether positive weights that are all equal pick at most one log-probability of each row."""
    known = _not_zero(values)
    rows = values.reshape(-1, values.shape[-1]) if values.dim() else values.reshape(1, 1)
    single = bool(((rows != 0).sum(1) <= 1).all())
    return _all_of_sign(values, 1) and single and bool(known.max() - known.min() <= _EQUAL * known.max())


def _one_target(trace: OperationTrace) -> Cause | None:
    """The only value of targets whose loss has a gradient."""
    for call in trace.losses.compared:
        value = _only_target(call)
        if value is not None:
            return ONE_TARGET.of(value=value, operation=call.operation)
    return None


def _only_target(call: LossCall) -> float | None:
    source, target = call.source, call.target
    if (
        source is None
        or not source.requires_grad
        or target.is_floating_point()
        or source.dim() != target.dim() + 1
    ):
        return None
    found = call.at_input.value
    if found is None:
        return None
    counted = target[(found != 0).any(1 if found.dim() > 1 else 0)]
    values = counted.unique()
    return float(values[0]) if len(values) == 1 and len(target.unique()) >= _TARGETS else None


_OTHER = 1e-5
"""Relative change of a term from which it depends on the weights: rounding is a hundredth of it."""


def check_added(first: OperationTrace, second: OperationTrace) -> list[Finding]:
    """LOSS006, from a step and the same step with other weights."""
    moved = differing(first.added.of_losses(), second.added.of_losses(), _OTHER)
    forgotten = [each for each in moved if not each.stopped]
    if forgotten:
        return [LOSS006.found_once("", NO_GRAPH.of(operation=forgotten[0].place))]
    return [LOSS006.found_once("", DETACHED_TERM.of(operation=each.place), NOTE) for each in moved[:1]]


def check_recomputed(modules: Sequence[str], owner: Callable[[str], str]) -> list[Finding]:
    """GRAD008 for modules that a checkpoint computed again, with other results."""
    return [GRAD008.found_once(module, RECOMPUTED) for module in sorted({owner(each) for each in modules})]


def check_sign(
    model: nn.Module,
    loss: Callable[[], Tensor],
    watched: Mapping[str, nn.Module],
    before_each: Callable[[], None],
) -> list[Finding]:
    """LOSS004 where the loss rises along the negative gradient of every watched module.

    Args:
        loss: Function that computes the loss of one batch, with its graph.
        before_each: Function that puts everything but the weights back to what it was.
    """
    random = RandomState()

    def restore() -> None:
        before_each()
        random.restore()

    for parameter in model.parameters():
        parameter.grad = None
    first = loss()
    first.backward()
    value = float(first.detach())
    ratios = [_ratio(part, value, loss, restore) for part in _parts(watched)]
    if not ratios or not all(ratio is not None and ratio < _NEGATED for ratio in ratios):
        return []
    restore()
    same = is_same([value, float(loss().detach())])  # or a state of the loop changes the loss too
    return [LOSS004.found_once("", GRADIENT_NEGATED)] if same else []


def _parts(watched: Mapping[str, nn.Module]) -> Iterator[list[nn.Parameter]]:
    """The parameters with gradient of each watched module."""
    seen: set[int] = set()
    for module in watched.values():
        own = [each for each in module.parameters() if each.grad is not None and id(each) not in seen]
        seen.update(id(each) for each in own)
        if any(each.grad is not None and _is_seen(each.grad) for each in own):
            yield own


def _is_seen(gradient: Tensor) -> bool:
    """Whether it has a norm: the squares of gradients below 1e-22 are 0."""
    return float(real_view(gradient).float().norm()) > 0.0


@torch.no_grad()
def _ratio(
    part: Sequence[nn.Parameter], value: float, loss: Callable[[], Tensor], restore: Callable[[], object]
) -> float | None:
    """Change of the loss along the gradient, over the expected one; None where it is lost in rounding."""
    gradients = [each.grad.clone() for each in part if each.grad is not None]
    was = [each.detach().clone() for each in part]
    norm = float(torch.stack([real_view(each).float().norm() for each in gradients]).norm())
    size = float(torch.stack([real_view(each).float().norm() for each in was]).norm())
    step = min(_DROP * max(abs(value), _DROP) / norm, _LARGEST_STEP * size)
    values = []
    for sign in (1.0, -1.0):
        for each, gradient, before in zip(part, gradients, was, strict=True):
            each.copy_(before + sign * step / norm * gradient)
        restore()
        with torch.enable_grad():
            values.append(float(loss().detach()))
    for each, before in zip(part, was, strict=True):
        each.copy_(before)
    expected = 2 * step * norm
    rounding = 1e-5 * max(abs(value), 1e-3)
    return (values[0] - values[1]) / expected if expected > rounding else None

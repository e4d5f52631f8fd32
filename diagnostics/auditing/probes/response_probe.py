"""Whether the loss responds to the weights of each module: a cut graph, an unused result, a saturated unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from diagnostics.auditing.responses import (
    FRESH,
    SIZES,
    Loss,
    Responses,
    TermResponse,
    Verdict,
    probe_response,
    trace_flow,
)
from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.rules.rule import CRITICAL, LITTLE_USED, UNTRAINED, WARNING, Family, Rule
from diagnostics.testing.failure import failure

SCALAR_READ = Cause(
    "scalar-read",
    "the values pass through an operation without gradient: argmax, .item(), a comparison, detach() or no_grad()",
)
DRAWN = Cause(
    "drawn-without-gradient",
    "the loss uses a draw of {operation}, and sample() has no gradient for the parameters of the distribution",
    remedy="Use rsample(), or multiply log_prob() of the draw by the reward.",
)
FLAT_FUNCTION = Cause("flat-function", "round(), sign(), clamp() or a dead unit, whose gradient is zero")
RESULT_UNUSED = Cause("result-unused", "no operation on the way to the loss reads its result")
FACTOR_ZERO = Cause("factor-zero", "a factor of zero (mask, gate, weight) between it and the loss")
NO_WEIGHT = Cause("no-weight", "the loss depends only on the data: the answers do not depend on any weight")
UNIT_SATURATED = Cause(
    "unit-saturated",
    "a saturated unit or a straight-through estimator passes gradient for values that do not change",
)

OVERWRITTEN = Cause(
    "overwritten-in-step",
    "each step writes to its weights before it uses them, so that no update lasts",
    remedy="Write them once, before training; check the flag of an initialisation that the first batch is to make.",
)
RESPONSE001 = Rule(
    "RESPONSE001",
    CRITICAL,
    "The loss responds without gradient",
    "response",
    "Keep values tensors up to the loss: a soft choice instead of argmax, a sigmoid instead of a threshold.",
    source="audit",
    causes=(SCALAR_READ, FLAT_FUNCTION, DRAWN),
    arguments="Response",
    what="The probe `Response`: other weights of the module change a term of the task, but no weight has a"
    " non-zero gradient for that term. A warning: the loss uses a draw of sample() from its outputs, although"
    " the distribution has rsample().",
    why="Its result is used, but training cannot improve it.",
    example="`bank[torch.arange(n), scores.argmax(1)]`.",
    false_alarms="A module that learns by other means, as a target network: set requires_grad to False.",
    explains=UNTRAINED | {"GRAD001", "TERM001"},
    rank=5,
)
RESPONSE002 = Rule(
    "RESPONSE002",
    WARNING,
    "The result of the module is not used",
    "response",
    "Use its result in the loss, or remove it.",
    source="audit",
    causes=(RESULT_UNUSED, FACTOR_ZERO, NO_WEIGHT),
    arguments="Response",
    what="The probe `Response`: no term of the task changes with other weights of the module, even if the rest of"
    " the model has new random weights. Critical for the whole model.",
    why="Training can move the module, but this cannot change an answer.",
    example="`self.project(x)`, whose result is not assigned.",
    false_alarms="A module that other batches use.",
    explains=UNTRAINED | {"GRAD001", "TERM001", "CALL002", "LOSS002", "REACH002"},
    rank=6,
)
RESPONSE003 = Rule(
    "RESPONSE003",
    WARNING,
    "Gradient without response",
    "response",
    "Reduce the scale of the input of the saturated unit.",
    source="audit",
    causes=(UNIT_SATURATED, OVERWRITTEN),
    arguments="Response",
    what="The probe `Response`: gradient arrives, and noise as large as the weights changes no term of the task beyond"
    " rounding.",
    why="Its gradient says nothing about the loss.",
    example="`sigmoid(x + 20)`; `(x + 100).sign()` with a straight-through estimator.",
    false_alarms="A module whose share of the loss is tiny by design.",
    # rounding may make the gradient of some samples exactly zero
    explains=LITTLE_USED | {"GRAD005", "MOVE001"},
    rank=7,
)
FAMILY = Family(195, "Response of the loss", (RESPONSE001, RESPONSE002, RESPONSE003))

_JUDGED: Mapping[Verdict, tuple[Rule, Cause, str]] = {
    "cut": (
        RESPONSE001,
        SCALAR_READ,
        "{term} changes by {change:.3g} with its weights, and no gradient reaches them",
    ),
    "flat": (
        RESPONSE001,
        FLAT_FUNCTION,
        "{term} changes by {change:.3g} with its weights; their gradient is zero",
    ),
    "saturated": (
        RESPONSE003,
        UNIT_SATURATED,
        "gradient of {term} arrives, and noise on its weights does not change it",
    ),
    "overwritten": (
        RESPONSE003,
        OVERWRITTEN,
        "gradient of {term} arrives, and the loss is computed with other weights, which it writes itself",
    ),
    "zero factor": (
        RESPONSE002,
        FACTOR_ZERO,
        "{term} does not change with its weights; their gradient is zero",
    ),
    "unused": (
        RESPONSE002,
        RESULT_UNUSED,
        "{term} does not change with its weights, and no gradient reaches them",
    ),
}
"""Verdict -> what is reported; the first that some term of the task has counts."""


@dataclass(frozen=True)
class Response:
    """RESPONSE001 to RESPONSE003: gradient and response of the loss agree for each module.

    Attributes:
        loss: Function (model, batch) -> the loss with its graph, or its terms by name; no backward inside.
        watch: Names or patterns of modules, as for `Monitor`.
        regularisers: Names of the terms that are not of the task; they are not judged.
        sizes: Sizes of the noise on the weights, relative to the root mean square of each tensor.
        fresh: Number of fresh draws of the weights before no response is reported.
    """

    loss: Loss
    watch: Sequence[str] | None = None
    regularisers: Sequence[str] = ()
    sizes: Sequence[float] = SIZES
    fresh: int = FRESH
    rule: ClassVar[str] = RESPONSE001.id

    def run(self, model: nn.Module, batch: Any) -> list[Finding]:
        """One finding per module, or one for the model if its task does not depend on any weight."""
        found = probe_response(model, self.loss, batch, watch=self.watch, sizes=self.sizes, fresh=self.fresh)
        return judge_responses(
            found, self.regularisers, trace_flow(model, self.loss, batch, self.watch).feeds
        )


def judge_responses(
    responses: Responses,
    regularisers: Sequence[str] = (),
    feeds: Callable[[str, str], bool] = lambda first, second: False,
) -> list[Finding]:
    """The findings for what `probe_response` measured.

    Args:
        regularisers: Names of the terms that are not of the task.
        feeds: Function (first, second) -> whether the second module uses what the first one computed: what the second
            one loses is lost to both, and is one finding.
    """
    task = {
        module: {term: found for term, found in terms.items() if term not in regularisers}
        for module, terms in responses.items()
    }
    whole = task.pop("", {})
    if whole and all(found.verdict in ("unused", "zero factor") for found in whole.values()):
        message = f"model: no weight changes {', '.join(whole)}"
        found = failure(RESPONSE002, "", message, 0.0, None, NO_WEIGHT, severity=CRITICAL)
        return [found]
    findings = [finding for module, terms in task.items() for finding in _judge(module, terms)]
    return _folded(findings, feeds)


def _folded(findings: Sequence[Finding], feeds: Callable[[str, str], bool]) -> list[Finding]:
    """Findings of the same code along one path as one, in the module nearest to the loss."""
    after = {
        id(each): [
            other
            for other in findings
            if other.code == each.code
            and feeds(each.module, other.module)
            and not feeds(other.module, each.module)  # a recursion: neither is nearer to the loss
        ]
        for each in findings
    }
    last = [each for each in findings if not after[id(each)]]
    first_of = {id(each): next((one for one in last if one in after[id(each)]), None) for each in findings}
    return [
        replace(cause, consequences=tuple(each for each in findings if first_of[id(each)] is cause))
        for cause in last
    ]


def _judge(module: str, terms: Mapping[str, TermResponse]) -> Iterator[Finding]:
    verdicts = [found.verdict for found in terms.values()]
    if not terms or any(verdict in ("healthy", "idle", "frozen") for verdict in verdicts):
        return
    for verdict, (rule, cause, text) in _JUDGED.items():
        if verdict in verdicts:
            term, found = next((name, found) for name, found in terms.items() if found.verdict == verdict)
            message = f"{module}: {text.format(term=term, change=found.change)}"
            severity = WARNING if verdict == "flat" else rule.severity
            yield failure(rule, module, message, found.change, None, cause, severity=severity)
            return


def check_draws(traces: Sequence[OperationTrace], owner: Callable[[str], str]) -> list[Finding]:
    """RESPONSE001 for what sample() draws from outputs of modules, if it is so in every traced step.

    Args:
        owner: Function full name of a module -> the innermost watched module that contains it.
    """
    drawn = [{draw.place: modules for draw, modules in trace.draws()} for trace in traces]
    found = {}
    for place in set.intersection(*(set(each) for each in drawn)) if drawn else ():
        for module in drawn[0][place] or [""]:
            name = owner(module)
            found[name] = RESPONSE001.found_once(name, DRAWN.of(operation=place), WARNING)
    return [found[name] for name in sorted(found)]

"""Modules whose samples lose their gradient to the other branch of a maximum, as in a loss with a clipped term."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.auditing.tracing.recorded_calls import BranchCall
from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.rules.rule import NOTE, Family, Rule

OTHER_BRANCH = Cause(
    "other-branch",
    "the loss has gradient for all samples, but for some samples the gradient goes to a clamped branch: {operation}",
    remedy="Nothing, if the loss is clipped on purpose, like the value loss of PPO.",
)
MASKED = Cause(
    "left-out-by-mask",
    "the loss is a mean over the samples that a mask keeps, so the other samples do not count: {operation}",
    remedy="Nothing, if the mask leaves out samples on purpose: padding, or rows without a label.",
)
COV004 = Rule(
    "COV004",
    NOTE,
    "The loss leaves samples out",
    "operations",
    "Nothing, if the loss leaves out samples on purpose.",
    source="audit",
    by_operations=True,
    arguments="audit",
    causes=(OTHER_BRANCH, MASKED),
    what="In each repeated step, a maximum() or minimum() outside of all modules gets gradient for every sample,"
    " and one of its two arguments is the result of clamp(): where that argument is picked and clamped, there"
    " is no gradient. Or a loss is multiplied by a mask and divided by the sum of the mask, or ignores the"
    " targets of that many samples.",
    why="It explains a low coverage: a clipped loss leaves out samples, other samples in each step.",
    example="`torch.max((v - r) ** 2, (v_clipped - r) ** 2)`; `(loss * mask).sum() / mask.sum()`.",
    false_alarms="It is a note.",
    explains=frozenset({"COV001", "COV002", "WASTE001"}),
    rank=7,
)
FAMILY = Family(137, "Samples that train a module", (COV004,))


def check_branches(traces: Sequence[OperationTrace], owner: Callable[[str], str]) -> list[Finding]:
    """COV004 for the modules that feed such a maximum directly in every trace: one finding, which lists them.

    Args:
        owner: Function full name of a module -> the innermost watched module that contains it.
    """
    found: dict[str, Finding] = {}
    if not traces:
        return []
    for call in traces[0].clamps.branches:
        place = call.operation.place
        alike = [
            [each for each in trace.clamps.branches if each.operation.place == place] for trace in traces
        ]
        if not all(any(map(_is_whole, calls)) for calls in alike):
            continue
        for name in sorted({owner(each) for each in call.sources}):
            found.setdefault(name, COV004.found_once(name, OTHER_BRANCH.of(operation=call.operation)))
    every = list(found.values())
    return [replace(every[0], consequences=tuple(every[1:]))] if every else []


def without_idle(findings: Sequence[Finding]) -> list[Finding]:
    """The findings without those of COV004 that explain nothing."""
    return [each for each in findings if each.rule != COV004.id or _explains(each)]


def _explains(finding: Finding) -> bool:
    return any(each.rule != COV004.id for each in finding.consequences)


def _is_whole(call: BranchCall) -> bool:
    """Whether every sample has gradient at the result."""
    gradient = call.at_result.value
    return gradient is not None and gradient.dim() > 0 and _all_rows(gradient != 0)


def _all_rows(hit: Tensor) -> bool:
    return bool(hit.reshape(len(hit), -1).any(1).all())

"""Whether the backward pass of an own autograd function belongs to its forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from diagnostics.auditing.tracing.own_functions import FunctionCall
from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.rules.rule import CRITICAL, WARNING, Family, Rule

UPSTREAM_IGNORED = Cause(
    "upstream-ignored",
    "the backward pass of {function} returns the same gradient whatever gradient it is given, even for zeros",
    remedy="Multiply the derivative by the gradient that backward() is given.",
)
NOT_THE_SLOPE = Cause(
    "not-the-slope",
    "the backward pass of {function} is not the derivative of its forward pass: their ratio goes from {low:.2g} to"
    " {high:.2g}",
    remedy="Correct the formula; compare it with torch.autograd.gradcheck().",
)
GRAD009 = Rule(
    "GRAD009",
    CRITICAL,
    "An own function has a wrong gradient",
    "operations",
    "Correct the backward pass, and test it with torch.autograd.gradcheck().",
    source="audit",
    arguments="audit",
    causes=(UPSTREAM_IGNORED, NOT_THE_SLOPE),
    what="An audit calls the backward pass of each `torch.autograd.Function` of the program again, with other"
    " gradients. It reports one that returns the same for all. A warning, for a smooth function of single elements:"
    " its gradient is no multiple of its slope, which finite differences in double precision give.",
    why="Weights before it follow a direction that does not lower the loss, and torch reports no error.",
    example="`backward` returns `2 * x` where `2 * x * gradient` is right.",
    false_alarms="A surrogate of a smooth function that is no multiple of its slope. Identities, steps, kinks and"
    " gradients that are passed straight through are not reported.",
    rank=6,
)
FAMILY = Family(138, "Loss and its gradient", (GRAD009,))

_FEWEST = 8
"""Elements from which a ratio says something."""
_STEP = 1e-5
"""Step of the finite differences in double precision, relative to 1 + |x|: errors are of the order of 1e-10."""
_KINK = 1e-2
"""Difference of the slopes on both sides, relative to the largest slope, from which an element is at a kink."""
_STEEP = 0.05
"""Slope relative to the largest from which it is compared: next to none, single precision of the gradient decides."""
_SAME = 1e-3
"""Relative spread of the slopes up to which a function is linear where it is not flat, as an identity or a ReLU."""
_OFF = 0.1
"""Relative distance from the median ratio that is no approximation, and the share of elements that must have it."""


def check_functions(steps: Sequence[Sequence[FunctionCall]], owner: Callable[[str], str]) -> list[Finding]:
    """GRAD009 for the first own function in which every step shows the same.

    Args:
        steps: The calls of each step, whose backward pass ran and left what they saved.
        owner: Function full name of a module -> the innermost watched module that contains it.
    """
    judged = [{(call.function, call.module): _judge(call) for call in reversed(calls)} for calls in steps]
    for (function, module), cause in judged[0].items() if judged else ():
        others = [each.get((function, module)) for each in judged]
        if cause is not None and all(other is not None and other.code == cause.code for other in others):
            severity = WARNING if cause.code == NOT_THE_SLOPE.code else None
            return [GRAD009.found_once(owner(module) if module else "", cause, severity)]
    return []


@torch.no_grad()
def _judge(call: FunctionCall) -> Cause | None:
    """What is wrong with the gradient of one of the arguments; a single number may be a loss that is passed on."""
    result = call.result
    if not result.is_floating_point() or result.numel() < _FEWEST:
        return None
    drawn = torch.rand(result.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    upstream = drawn.to(result)
    try:
        answers = [_answers(call, factor * upstream) for factor in (0.0, 1.0, 2.0)]
    except Exception:  # noqa: BLE001 - of the user's code, which need not run a second time
        return None
    for place in sorted(set.intersection(*map(set, answers))):
        none, once, twice = (each[place] for each in answers)
        if once.numel() > 1 and bool(none.any()) and torch.equal(none, once) and torch.equal(once, twice):
            return UPSTREAM_IGNORED.of(function=call.function.__name__)
    alike = [place for place in answers[1] if call.args[place].shape == result.shape]
    return _compare_slopes(call, alike[0], upstream, answers[1][alike[0]]) if len(alike) == 1 else None


def _answers(call: FunctionCall, upstream: Tensor) -> dict[int, Tensor]:
    """The gradients that the backward pass gives, by the place of the argument."""
    found = call.function.backward(call.context, upstream)
    every = found if isinstance(found, tuple) else (found,)
    return {
        place: answer.detach().clone()
        for place, (given, answer) in enumerate(zip(call.args, every, strict=False))
        if isinstance(given, Tensor) and isinstance(answer, Tensor) and call.context.needs_input_grad[place]
    }


def _compare_slopes(call: FunctionCall, place: int, upstream: Tensor, answer: Tensor) -> Cause | None:
    """Whether a gradient is no multiple of the slope; one that is passed straight through, or cut, is meant."""
    if torch.equal(answer, upstream) or not bool(answer.any()) or answer.shape != upstream.shape:
        return None
    slopes = _slopes(call, place)
    if slopes is None:
        return None
    kept, slope = slopes
    ratio = (answer.double() / upstream.double())[kept] / slope[kept]
    middle = ratio.median()
    off = (ratio - middle).abs() > _OFF * middle.abs()
    if float(off.double().mean()) <= _OFF:
        return None
    low, high = ratio.quantile(0.05), ratio.quantile(0.95)
    return NOT_THE_SLOPE.of(function=call.function.__name__, low=float(low), high=float(high))


def _slopes(call: FunctionCall, place: int) -> tuple[Tensor, Tensor] | None:
    """Which elements are compared, and the slope of each; None for a function that is not smooth and by element."""
    args = [each.detach().double() if _is_number(each) else each for each in call.args]
    x = args[place]
    step = _STEP * (1.0 + x.abs())

    def compute(value: Tensor) -> Any:
        context = FunctionCtx()
        context.needs_input_grad = call.context.needs_input_grad  # type: ignore[attr-defined]
        given = [*args[:place], value.clone(), *args[place + 1 :]]
        return call.compute(context, *given) if call.takes_context else call.compute(*given)

    try:
        here, again, above, below = (compute(each) for each in (x, x, x + step, x - step))
        odd = (torch.arange(x.numel(), device=x.device) % 2 == 1).reshape(x.shape)
        halves = [(part, compute(x + step * part)) for part in (odd, ~odd)]
    except Exception:  # noqa: BLE001 - the same
        return None
    same = torch.equal(here, again) and torch.allclose(here, call.result.double(), rtol=1e-3, atol=1e-3)
    if not same or any(bool((moved != here)[~part].any()) for part, moved in halves):
        return None
    right, left = (above - here) / step, (here - below) / step
    slope = (right + left) / 2
    largest = slope.abs().max()
    kept = ((right - left).abs() <= _KINK * largest) & (slope.abs() > _STEEP * largest)
    steep = slope[kept]
    if len(steep) < _FEWEST or 2 * len(steep) < slope.numel() or not bool(largest.isfinite()):
        return None
    linear = bool(steep.max() - steep.min() <= _SAME * largest)
    return None if linear else (kept, slope)


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()

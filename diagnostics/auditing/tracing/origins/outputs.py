"""Origins of what a model returned: outputs, their largest number, decisions, and sums of both signs."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from diagnostics.auditing.tracing.function_names import ARITHMETIC, LIMITS, PASSES, PRODUCTS, QUOTIENTS
from diagnostics.auditing.tracing.origins.origin_call import OriginCall, Product, has_both_signs

OUTPUT = "output"
"""What a linear function computed."""
LARGEST = "largest-of-all"
"""The largest number of all that a module returned for the samples of a batch, without graph."""
DECISION = "decision"
"""Indices of largest numbers."""
BLENDED = "blended"
"""Whole numbers of which a resize made averages."""
CLAMPED = "clamped"
"""What clamp() gave for numbers with a graph."""
SIGNED_SUM = "sum-of-both-signs"
"""A sum of what a linear function computed, with a graph, of numbers of both signs."""

_LINEAR = ("linear", "bilinear", "conv1d", "conv2d", "conv3d", "matmul", "bmm", "einsum")
_RANKS = ("argmax", "argmin")
_SMOOTH = ("linear", "bilinear", "bicubic", "trilinear", "area")
_RESIZES = ("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool2d")


class OutputOrigins:
    """What is done with outputs before a loss.

    Attributes:
        divided: Quotients whose divisor is a sum of outputs of both signs.
    """

    carried: Mapping[str, Collection[str]] = {
        OUTPUT: PASSES | ARITHMETIC,
        LARGEST: PASSES | PRODUCTS | {"add"},
        DECISION: PASSES,
        BLENDED: PASSES | {"round", "floor", "ceil", "clamp"},
        CLAMPED: PASSES | ARITHMETIC,
        SIGNED_SUM: PASSES | PRODUCTS | {"add", "clamp"},
    }

    def __init__(self) -> None:
        self.divided: list[Product] = []

    def begin(self, call: OriginCall) -> set[str]:
        """The origins that begin with a call."""
        if not call.given:
            return set()
        name, first, result = call.name, call.given[0], call.result
        of_output = OUTPUT in call.origins[0]
        begun = {
            OUTPUT: name in _LINEAR,
            LARGEST: name in ("max", "amax") and of_output and _is_of_all(call.given, result),
            DECISION: name in _RANKS,
            BLENDED: _resizes(call) and _is_whole(first) and not _is_whole(result),
            CLAMPED: name in LIMITS and first.requires_grad,
            SIGNED_SUM: name == "sum" and of_output and result.requires_grad and has_both_signs(first),
        }
        return {origin for origin, begins in begun.items() if begins}

    def look(self, call: OriginCall) -> None:
        """Keep a division by a sum of outputs of both signs."""
        divides = call.name in QUOTIENTS and len(call.given) == 2
        if divides and call.result.requires_grad and SIGNED_SUM in call.origins[1]:
            self.divided.append(Product.of(call))


def _resizes(call: OriginCall) -> bool:
    return call.name in _RESIZES or (call.name == "interpolate" and call.kwargs.get("mode") in _SMOOTH)


def _is_of_all(given: Collection[Tensor], result: Tensor) -> bool:
    """Whether a result without graph is one number for several rows."""
    (first, *others) = given
    several = not others and first.dim() > 1 and len(first) > 1
    return several and result.dim() == 0 and not result.requires_grad


def _is_whole(values: Tensor) -> bool:
    """Whether all numbers are whole, and there are several."""
    if not values.is_floating_point() or values.requires_grad:
        return False
    return bool((values == values.round()).all()) and bool((values != values.flatten()[0]).any())

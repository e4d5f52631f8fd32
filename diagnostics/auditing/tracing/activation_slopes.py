"""How steep the activation functions of a step are where it uses them: units at a flat end pass no gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

SLOPES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda result: 1 - result.square(),
    "sigmoid": lambda result: 4 * result * (1 - result),
    "relu": lambda result: (result > 0).float(),
}
"""Function -> its slope, relative to the steepest, from its result."""
_FEWEST = 64
"""Elements from which a mean says something about a layer."""


@dataclass(frozen=True)
class ActivationCall:
    """One call of an activation function on a computed value.

    Attributes:
        kind: Name of the function.
        place: File and line.
        module: Innermost module in whose forward pass it was called.
        sources: Modules whose outputs its input was computed from, with no other module between.
        slope: Mean slope over the elements, relative to the steepest.
        size: Root mean square of its input.
    """

    kind: str
    place: str
    module: str
    sources: tuple[str, ...]
    slope: float
    size: float


def slope_of(name: str, given: Tensor, result: Tensor) -> float | None:
    """The mean slope of a call, None where the function is another one or the result is small."""
    function = SLOPES.get(name.removesuffix("_"))
    if (
        function is None
        or not result.requires_grad
        or result.numel() < _FEWEST
        or not given.is_floating_point()
    ):
        return None
    return float(function(result.detach().float()).mean())

"""Two losses of opponents that move the same outputs to one side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from torch import Tensor

from diagnostics.auditing.tracing.calls.outer_call import OuterCall
from diagnostics.recording.tensors import address_of

_SAME_SIDE = 0.99
"""Share of the rows whose gradient has one sign in both calls: where two networks oppose each other it is near 0."""
_MOST_SPREAD = 0.25  # of the ratios, relative to their mean: the judge may be updated between the calls
_FEWEST_SIDES = 8  # rows from which that is no chance


@dataclass(frozen=True)
class AgreeingCalls:
    """A module that was called twice with what another one made, and both losses move its outputs to one side.

    Attributes:
        judge: The module that was called twice, first without and then with a graph to the other, or vice versa.
        maker: The other module.
    """

    judge: str
    maker: str


def find_agreeing(calls: Sequence[OuterCall], makers: Mapping[int, str]) -> Iterator[AgreeingCalls]:
    """Find the pairs of calls that agree.

    Args:
        calls: The outermost calls of a step.
        makers: Address of what each of them returned -> its module.
    """
    for one, other in combinations(calls, 2):
        if one.module is not other.module or one.passes == other.passes:
            continue
        if not (one.given and other.given) or one.given[0].requires_grad == other.given[0].requires_grad:
            continue
        maker, same = (makers.get(address_of(call.given[0])) for call in (one, other))
        if maker is None or maker != same or maker == one.name:
            continue
        if _same_side(one.arrived.value, other.arrived.value):
            yield AgreeingCalls(one.name, maker)


def _same_side(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether the gradients at the outputs of two calls, a number per row, are those of one loss with one target.

    They have one sign in nearly all rows, and one ratio: two squares with different targets, which oppose each other
    between these, have one sign on the same side of both.
    """
    if one is None or other is None or one.numel() != other.numel() or one.numel() != len(one):
        return False
    known = (one.flatten() != 0) & (other.flatten() != 0)
    ratios = one.flatten()[known] / other.flatten()[known]
    if len(ratios) < _FEWEST_SIDES or float((ratios > 0).float().mean()) <= _SAME_SIDE:
        return False
    return float(ratios.std()) <= _MOST_SPREAD * float(ratios.mean())

"""The rows that a module was given, as numbers: whether many of them are the same."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.auditing.tracing.calls.outer_call import OuterCall, encode_rows, is_table, largest_table


@dataclass(frozen=True)
class GivenRows:
    """What an outermost call was given, a number per row.

    Attributes:
        module: Name of the module.
        codes: (rows,) two rows have the same number if all that was given of them is the same.
        whole: Whether all numbers are whole.
    """

    module: str
    codes: Tensor
    whole: bool


def rows_of(call: OuterCall) -> GivenRows | None:
    """The rows of a call; None where its tensors have different numbers of rows, or a graph."""
    known = [each for each in call.given if is_table(each)]
    largest = largest_table(known)
    if largest is None or any(each.requires_grad or len(each) != len(largest) for each in known):
        return None
    given = (each if each.dim() > 1 else each[:, None] for each in known)
    codes = [
        code if each is largest and (code := call.code) is not None else encode_rows(each) for each in given
    ]
    numbered = torch.stack([code * (1 + place) for place, code in enumerate(codes)])
    whole = all(bool((each == each.round()).all()) if each.is_floating_point() else True for each in known)
    return GivenRows(call.name, numbered.sum(0), whole)

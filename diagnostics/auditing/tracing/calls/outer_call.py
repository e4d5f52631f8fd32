"""One call of a module outside of all others, with its tensors, and codes of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from diagnostics.auditing.tracing.recorded_calls import Arrived
from diagnostics.recording.tensors import is_dense

_MOST_COLUMNS = 1024
"""Numbers of a row that are compared, evenly spaced; the rows that are alike by these are compared as a whole."""


@dataclass
class OuterCall:
    """A call outside of all others.

    Attributes:
        name: Name of the module.
        module: The module.
        given, returned: The tensors that it was given and returned.
        passes: Backward passes before it.
        arrived: The gradient at the first tensor that it returned with a graph.
    """

    name: str
    module: nn.Module
    given: list[Tensor]
    returned: list[Tensor]
    passes: int
    arrived: Arrived

    @cached_property
    def code(self) -> Tensor | None:
        """(rows,) numbers that tell the rows of the largest tensor apart."""
        largest = self.largest
        return None if largest is None else encode_rows(largest)

    @property
    def largest(self) -> Tensor | None:
        """The floating-point tensor with rows that has the most numbers, of those that it was given."""
        return largest_table(self.given)


def largest_table(given: Sequence[Tensor]) -> Tensor | None:
    """The floating-point tensor with rows that has the most numbers."""
    known = [each for each in given if is_table(each) and each.is_floating_point() and each.dim() > 1]
    return max(known, key=Tensor.numel, default=None)


def is_table(tensor: Tensor) -> bool:
    """Whether a tensor has rows of real numbers."""
    return is_dense(tensor) and not tensor.is_complex() and tensor.dim() > 0 and tensor.numel() > 0


def encode_rows(tensor: Tensor) -> Tensor:
    """(rows,) a number for each row, the same for equal rows."""
    flat = tensor.detach().reshape(len(tensor), -1).cpu()
    flat = flat[:, :: -(-flat.shape[1] // _MOST_COLUMNS)].double()
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(flat.shape[1], generator=generator, dtype=torch.double) + 0.5
    return (flat * weights).sum(1)

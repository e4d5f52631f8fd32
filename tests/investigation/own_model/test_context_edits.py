"""A context is replaced in whatever a module returns."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from etrm.investigation.own_model.context_edits import replace_tensor

OLD, NEW = torch.zeros(2), torch.ones(2)
Pair = namedtuple("Pair", ("context", "size"))


@dataclass
class Output:
    context: Tensor
    size: int = field(init=False, default=2)


@pytest.mark.parametrize(
    ("output", "read"),
    [
        (OLD, lambda found: found),
        ((3, [OLD]), lambda found: found[1][0]),
        ({"context": OLD}, lambda found: found["context"]),
        (Pair(OLD, 2), lambda found: found.context),
        (Output(OLD), lambda found: found.context),
    ],
)
def test_a_tensor_is_replaced_wherever_it_is(output: Any, read: Any) -> None:
    found = replace_tensor(output, OLD, NEW)
    assert type(found) is type(output)
    assert read(found) is NEW

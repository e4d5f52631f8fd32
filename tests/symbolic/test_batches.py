"""Grids of batches in which something is missing; whole tasks are read in tests/model/test_symbolic_variant.py."""

from __future__ import annotations

import torch

from etrm.batch import Demos
from etrm.symbolic.batches import CELLS, read_demonstrations


def test_tokens_are_read_by_their_positions_in_any_order_and_padding_is_no_cell() -> None:
    tokens = torch.tensor([[5, 1, 4, 0, 7, 0], [2, 3, 0, 0, 0, 0]])
    positions = torch.tensor([[31, 62, 32, 0, CELLS + 31, 0], [0, 30, 0, 0, 0, 0]])
    demos = Demos(tokens, positions, None, torch.tensor([0, 1]), torch.tensor([0, 1]))
    found = read_demonstrations(demos)
    assert [grid.tolist() for grid in found.inputs.arrays()] == [[[3, 2]], [[0], [1]]]
    assert [grid.tolist() for grid in found.outputs.arrays()] == [[[5]], []]

"""TRM's context: a table with one vector per puzzle id."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PuzzleTable(nn.Module):
    """One D-vector per puzzle id, zero at the start, in the first of P context tokens.

    The gradient is sparse: only the rows of a batch have one, and repeated ids are summed.
    """

    def __init__(self, puzzles: int, context_tokens: int, hidden_size: int) -> None:
        super().__init__()
        self.context_tokens = context_tokens
        self.weights = nn.Parameter(torch.zeros(puzzles, hidden_size))

    def forward(self, puzzle_ids: Tensor) -> Tensor:
        """(B,) int64 to (B, P, D), zero except for the first token."""
        first = F.embedding(puzzle_ids, self.weights, sparse=True)
        return F.pad(first.unsqueeze(1), (0, 0, 0, self.context_tokens - 1))

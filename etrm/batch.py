"""The batch: the tensors that the data pipeline hands to the model.

Shapes: B samples, S query tokens, N demonstration pairs (of all samples together), L tokens per pair.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

IGNORE = -100
"""Label of a token that is not scored."""


@dataclass(frozen=True)
class Demos:
    """The demonstration pairs of some samples. Every pair is real: there are no padding pairs.

    Attributes:
        tokens: (N, L) int64, the input tokens, then the output tokens of each pair, then PAD = 0.
        positions: (N, L) int64, the position of each token on the canvas: 30r + c in the input grid,
            side**2 + 30r + c in the output grid, where ``side`` is the side of the canvas (30 by default).
        valid: (N, L) bool, True for tokens that are not padding; None if no token is masked (the published
            canvas, where PAD is attended to).
        owner: (N,) int64, the index of the context row (0..rows-1) that each pair belongs to, ascending.
        slots: (rows,) int64, the index of each context row's sample in the batch. This is every sample in order,
            unless a variant encodes only some of them, or the batch is one of several parts.
        noise: (rows, ...) standard normal samples for the latents of a variational encoder in training; None if
            the encoder draws its own.
        lengths: the number of tokens of each of the N pairs; None if the host would have to wait for the device
            to know them.
        cells: the number of different cells of each of the N pairs, places of either grid; None in the same case.
        most: the largest number of pairs of one row; None in the same case.
    """

    tokens: Tensor
    positions: Tensor
    valid: Tensor | None
    owner: Tensor
    slots: Tensor
    noise: Tensor | None = None
    lengths: tuple[int, ...] | None = None
    cells: tuple[int, ...] | None = None
    most: int | None = None

    @property
    def rows(self) -> int:
        """Number of samples whose context is encoded."""
        return self.slots.shape[0]

    def widened(self) -> Demos:
        """Return the same pairs with int64 tokens and positions."""
        return replace(self, tokens=self.tokens.long(), positions=self.positions.long())

    def select(self, rows: Tensor) -> Demos:
        """Return the demonstrations of some context rows; ``rows`` is (n,) int64, ascending indices."""
        renumbered = torch.full((self.rows,), -1, dtype=torch.long, device=self.owner.device)
        renumbered[rows] = torch.arange(len(rows), device=self.owner.device)
        keep = renumbered[self.owner] >= 0
        return Demos(
            tokens=self.tokens[keep],
            positions=self.positions[keep],
            valid=None if self.valid is None else self.valid[keep],
            owner=renumbered[self.owner[keep]],
            slots=self.slots[rows],
            noise=None if self.noise is None else self.noise[rows],
        )


@dataclass(frozen=True)
class Batch:
    """One batch of supervised samples.

    Attributes:
        inputs: (B, S) int64 tokens of the query input.
        labels: (B, S) int64 tokens of the query output, IGNORE for tokens that are not scored.
        positions: (B, S) int64, the position of each token on the canvas, 30r + c (context tokens not counted).
        valid: (B, S) bool, True for tokens that are not padding; None if no token is masked (published canvas).
        puzzle_ids: (B,) int64, the row of the puzzle table for each sample (0 if the variant has no table).
        sample_ids: (B,) int64, the serial number of the episode that each sample comes from.
        demos: the demonstration pairs of all samples.
    """

    inputs: Tensor
    labels: Tensor
    positions: Tensor
    valid: Tensor | None
    puzzle_ids: Tensor
    sample_ids: Tensor
    demos: Demos

    @property
    def size(self) -> int:
        """Number of samples B."""
        return self.inputs.shape[0]

    def widened(self) -> Batch:
        """Return the same samples with int64 tokens, labels and positions, which models take."""
        return replace(
            self,
            inputs=self.inputs.long(),
            labels=self.labels.long(),
            positions=self.positions.long(),
            demos=self.demos.widened(),
        )

    def select(self, rows: Tensor) -> Batch:
        """Return some samples, cut to the longest of them; ``rows`` is (n,) int64, ascending indices."""
        valid = None if self.valid is None else self.valid[rows]
        length = self.inputs.shape[1] if valid is None else int(valid.sum(1).max())
        return Batch(
            inputs=self.inputs[rows, :length],
            labels=self.labels[rows, :length],
            positions=self.positions[rows, :length],
            valid=None if valid is None else valid[:, :length],
            puzzle_ids=self.puzzle_ids[rows],
            sample_ids=self.sample_ids[rows],
            demos=replace(self.demos.select(rows), slots=torch.arange(len(rows), device=rows.device)),
        )

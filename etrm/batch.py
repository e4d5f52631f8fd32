"""The tensors that travel from the data to the model, and nothing else.

Shapes: B samples, S query tokens, N demo pairs of all samples together, L tokens of a pair.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

IGNORE = -100
"""Label of a token that is not scored."""


@dataclass(frozen=True)
class Demos:
    """The real demonstration pairs of some samples; no padded pair ever stands here.

    Attributes:
        tokens: (N, L) int64, input tokens then output tokens of each pair, PAD = 0 behind them.
        positions: (N, L) int64, place on the canvas: 30r + c for the input grid,
            side**2 + 30r + c for the output grid (``side`` of the canvas, 30 unless said).
        valid: (N, L) bool, tokens that exist; None where all do (published canvas, PAD attended).
        owner: (N,) int64, the context row (0..rows-1) that each pair belongs to, ascending.
        slots: (rows,) int64, for each context row its sample in the batch. All samples in order
            unless a variant encodes only some of them, or the batch is one of several parts.
        noise: (rows, ...) standard normal, for the latents of a variational encoder in training; None
            where it draws its own.
        lengths: tokens of each of the N pairs; None where the host does not know them and would have to
            wait for the device.
        most: pairs of the row that has most; None likewise.
    """

    tokens: Tensor
    positions: Tensor
    valid: Tensor | None
    owner: Tensor
    slots: Tensor
    noise: Tensor | None = None
    lengths: tuple[int, ...] | None = None
    most: int | None = None

    @property
    def rows(self) -> int:
        """Number of samples whose context is encoded."""
        return self.slots.shape[0]

    def select(self, rows: Tensor) -> Demos:
        """The demos of some context rows alone; ``rows`` is (n,) int64, ascending."""
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
        labels: (B, S) int64 tokens of the query output, IGNORE where not scored.
        positions: (B, S) int64, 30r + c on the canvas (without the P context positions).
        valid: (B, S) bool, tokens that exist; None where all do (published canvas).
        puzzle_ids: (B,) int64, row of the puzzle table (0 when the variant has none).
        sample_ids: (B,) int64, provenance: the serial number of the drawn episode.
        demos: the demonstration pairs.
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

    def select(self, rows: Tensor) -> Batch:
        """Some samples alone, no longer than the longest of them; ``rows`` is (n,) int64, ascending."""
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

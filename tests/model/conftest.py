"""Invented samples of any size, batches with any padding, and small models whose parts all matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from etrm.batch import IGNORE, Batch, Demos
from etrm.config import ModelConfig
from etrm.model.encoders import ENCODERS
from etrm.model.recursive import RecursiveModel

SIDE = 6


@dataclass(frozen=True)
class Row:
    """One invented sample: a query region, and pairs of (tokens, positions)."""

    tokens: Tensor
    positions: Tensor
    labels: Tensor
    pairs: tuple[tuple[Tensor, Tensor], ...]
    puzzle_id: int = 0


def _grid(size: tuple[int, int], generator: torch.Generator, lowest: int) -> tuple[Tensor, Tensor]:
    height, width = size
    places = (SIDE * torch.arange(height)[:, None] + torch.arange(width)).flatten()
    return torch.randint(lowest, 12, (height * width,), generator=generator), places


@dataclass(frozen=True)
class World:
    """What the tests of the model build their cases from."""

    side: int = SIDE

    def row(
        self,
        query: tuple[int, int],
        pairs: Sequence[tuple[tuple[int, int], tuple[int, int]]] = (((2, 2), (2, 2)),),
        seed: int = 0,
    ) -> Row:
        """A sample whose query covers (height, width) and whose pairs have those two sizes."""
        generator = torch.Generator().manual_seed(seed)
        tokens, positions = _grid(query, generator, lowest=0)
        labels = torch.randint(1, 12, (len(tokens),), generator=generator)
        labels[torch.rand(len(labels), generator=generator) < 0.2] = IGNORE
        built = []
        for first, second in pairs:
            (a, here), (b, there) = _grid(first, generator, 1), _grid(second, generator, 1)
            built.append((torch.cat((a, b)), torch.cat((here, there + SIDE * SIDE))))
        return Row(tokens, positions, labels, tuple(built), puzzle_id=seed % 5)

    def batch(self, rows: Sequence[Row], padding: int = 0, demo_padding: int = 0) -> Batch:
        """The rows as a batch, with more padding than the longest needs."""
        inputs, valid = _pad([r.tokens for r in rows], padding, 0)
        owner = [i for i, r in enumerate(rows) for _ in r.pairs]
        return Batch(
            inputs=inputs,
            labels=_pad([r.labels for r in rows], padding, IGNORE)[0],
            positions=_pad([r.positions for r in rows], padding, 0)[0],
            valid=valid,
            puzzle_ids=torch.tensor([r.puzzle_id for r in rows]),
            sample_ids=torch.arange(len(rows)),
            demos=self.demos([p for r in rows for p in r.pairs], owner, len(rows), demo_padding),
        )

    def demos(
        self, pairs: Sequence[tuple[Tensor, Tensor]], owner: Sequence[int], rows: int, padding: int = 0
    ) -> Demos:
        """Pairs of given owners."""
        tokens, valid = _pad([tokens for tokens, _ in pairs], padding, 0)
        positions, _ = _pad([positions for _, positions in pairs], padding, 0)
        return Demos(tokens, positions, valid, torch.tensor(owner), torch.arange(rows))

    def config(
        self, variant: str = "etrm", encoder: dict[str, Any] | None = None, **given: Any
    ) -> ModelConfig:
        """A model section of width 16."""
        small: dict[str, Any] = {
            "hidden_size": 16,
            "num_heads": 2,
            "expansion": 1.0,
            "layers": 1,
            "H_cycles": 2,
            "L_cycles": 1,
            "context_tokens": 3,
            "halt": {"max_steps": 3, "exploration": 0.0},
        }
        return ModelConfig(variant=variant, encoder={"layers": 1, **(encoder or {})}, **(small | given))

    def model(self, config: ModelConfig, seed: int = 0) -> RecursiveModel:
        """A new model; what starts at zero (halting weights, puzzle table) is drawn too."""
        torch.manual_seed(seed)
        model = RecursiveModel(config, puzzles=5, side=SIDE)
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.3)
        return model


def _pad(rows: Sequence[Tensor], more: int, fill: int) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(row) for row in rows])
    out = torch.full((len(rows), int(lengths.max()) + more), fill)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return out, torch.arange(out.shape[1]) < lengths[:, None]


@pytest.fixture(scope="session")
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def kept_model(world: World) -> Callable[[str, str], RecursiveModel]:
    """A model per variant and encoder (a kind, or a pooling of the standard one), in evaluation mode."""

    @cache
    def make(variant: str, encoder: str) -> RecursiveModel:
        knob = "kind" if encoder in ENCODERS else "pooling"
        return world.model(world.config(variant, encoder={knob: encoder})).eval()

    return make


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)

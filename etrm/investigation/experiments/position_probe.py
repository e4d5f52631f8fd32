"""Whether a pair's vector still knows where things are: a linear probe before and after pooling (S5).

Shapes: N pairs, L tokens of a pair, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from etrm.batch import Demos
from etrm.config import SIDE
from etrm.data.tokens import FIRST_COLOUR
from etrm.device import to_device, to_host
from etrm.model.encoders.standard import GridEncoder

GRID = 8
"""Side of the probed grids."""
COLOURS = range(1, 6)
FOLDS = 8  # each leaves out an eighth of the cells
PENALTY = 1e-3
"""Of the ridge regression, relative to the mean square of the features."""


@dataclass(frozen=True)
class PositionSkill:
    """Share of the variance of a coloured cell's row and column that a linear probe explains, on places it never saw.

    Attributes:
        before: the score from the state of the cell's own token, before pooling.
        after: the score from the vector of the pair. 0 is no better than the mean place; it can be below.
    """

    before: float
    after: float


@torch.no_grad()
def position_skill(encoder: GridEncoder) -> PositionSkill:
    """Probe black grids with one coloured cell, every place in five colours, with an output grid that is all black.

    The encoder must pool its tokens.
    """
    places = torch.arange(GRID * GRID).repeat(len(COLOURS))
    colours = torch.tensor(list(COLOURS)).repeat_interleave(GRID * GRID)
    cells = torch.arange(GRID * GRID)
    canvas = SIDE * (cells // GRID) + cells % GRID
    tokens = torch.full((len(places), 2 * GRID * GRID), FIRST_COLOUR)
    rows = torch.arange(len(places))
    tokens[rows, places] += colours
    demos = Demos(
        tokens=tokens,
        positions=torch.cat((canvas, SIDE * SIDE + canvas)).expand_as(tokens),
        valid=torch.ones_like(tokens, dtype=torch.bool),
        owner=rows,
        slots=rows,
    )
    states: list[Tensor] = []
    handle = encoder.layers[-1].register_forward_hook(lambda module, args, output: states.append(output))
    try:
        on_device = to_device(demos, encoder.input_embed.embedding_weight.device)
        vectors = encoder.encode(encoder.lay_out(on_device))
    finally:
        handle.remove()
    wanted = torch.stack((places // GRID, places % GRID), dim=1).double()
    own = to_host(states[0])[rows, places]
    folds = torch.randperm(GRID * GRID, generator=torch.Generator().manual_seed(0))[places] % FOLDS
    return PositionSkill(*(explained(to_host(found).double(), wanted, folds) for found in (own, vectors)))


def explained(features: Tensor, wanted: Tensor, folds: Tensor) -> float:
    """1 - squared error / variance of a ridge regression, each fold predicted from the others.

    Args:
        features: (N, D) float64.
        wanted: (N, T) float64.
        folds: (N,) number of the fold that each row is predicted in.
    """
    predicted = torch.empty_like(wanted)
    for fold in folds.unique():
        held = folds == fold
        x, y = features[~held], wanted[~held]
        centre, level = x.mean(0), y.mean(0)
        x = x - centre
        penalty = PENALTY * len(x) * x.square().mean().clamp(min=1e-12)
        weights = torch.linalg.solve(
            x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype), x.T @ (y - level)
        )
        predicted[held] = (features[held] - centre) @ weights + level
    error = (predicted - wanted).square().sum()
    return float(1 - error / (wanted - wanted.mean(0)).square().sum())

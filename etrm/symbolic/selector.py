"""How a solver chooses among its templates: logits from demonstrations, and weights from logits.

Shapes: P demonstrations, R tasks, T templates, M conditions, D the width of the encoding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from etrm.config import SymbolicConfig
from etrm.config.symbolic import Selection
from etrm.symbolic.formula import COLOURS
from etrm.symbolic.grids import Grids
from etrm.symbolic.templates import SOURCES, fit_canvas


def join_logits(rules: Tensor, conditions: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
    """Logits of all templates from those of their parts; a recolouring has the sum of its three.

    Args:
        rules: (R, rules).
        conditions: (R, M).
        sources: (R, 11).
        targets: (R, 10).

    Returns:
        (R, T).
    """
    recolourings = conditions[:, :, None, None] + sources[:, None, :, None] + targets[:, None, None, :]
    return torch.cat((rules, recolourings.flatten(1)), dim=1)


def weigh(logits: Tensor, temperature: float, noise: Tensor | None = None) -> Tensor:
    """(R, T) weights of the templates: a softmax.

    Args:
        logits: (R, T).
        temperature: the temperature of the softmax.
        noise: (R, T) standard Gumbel noise, which makes the best template a sample of the softmax.
    """
    return ((logits if noise is None else logits + noise) / temperature).softmax(1)


def measure_entropy(logits: Tensor, temperature: float, noise: Tensor | None = None) -> Tensor:
    """(R,) entropies in nats of the weights that :func:`weigh` gives.

    They are computed from logarithms, because a weight of 0 has an infinite derivative of w log w.
    """
    logs = ((logits if noise is None else logits + noise) / temperature).log_softmax(1)
    return -(logs.exp() * logs).sum(1)


def draw_gumbel(rows: int, templates: int) -> Tensor:
    """(rows, templates) standard Gumbel noise, from torch's global CPU generator."""
    return -torch.empty(rows, templates).exponential_().log()


def select(weights: Tensor, selection: Selection) -> Tensor:
    """(R, T) weights by which templates are applied.

    With ``soft`` they stay. With ``hard`` the best one has all the weight, and no gradient passes.
    ``straight_through`` has these values with the gradient of ``soft`` (Jang, Gu and Poole, Categorical
    Reparameterization with Gumbel-Softmax, 2017).
    """
    if selection == "soft":
        return weights
    best = one_hot_of_best(weights)
    return best if selection == "hard" else best + weights - weights.detach()


def one_hot_of_best(logits: Tensor) -> Tensor:
    """(R, T), 1 for the highest of each row."""
    return torch.zeros_like(logits).scatter(1, logits.argmax(1, keepdim=True), 1.0)


class FitSelector(nn.Module):
    """Logits by how likely each template makes the demonstrations: prior + scale * log likelihood.

    The demonstrations are evaluated and not embedded. The prior, one number for each rule, condition and source, and
    the scale are learned.

    Args:
        rules: number of rules.
        conditions: number of conditions.
        pairwise: whether there is a pairwise template, whose prior is learned too.
    """

    def __init__(self, rules: int, conditions: int, pairwise: bool = False) -> None:
        super().__init__()
        self.rules = nn.Parameter(torch.zeros(rules))
        self.conditions = nn.Parameter(torch.zeros(conditions))
        self.sources = nn.Parameter(torch.zeros(SOURCES))
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.pairwise = nn.Parameter(torch.zeros(())) if pairwise else None

    @property
    def scale(self) -> Tensor:
        """Factor of log likelihoods."""
        return self.log_scale.exp()

    def forward(self, log_likelihoods: Tensor) -> Tensor:
        """(R, T) logits from the (R, T) log likelihoods of all demonstrations of each task together."""
        targets = log_likelihoods.new_zeros(1, COLOURS)
        prior = join_logits(self.rules[None], self.conditions[None], self.sources[None], targets)
        return prior + self.scale * log_likelihoods


class DemonstrationEncoder(nn.Module):
    """Encodes a grid, or an input with its output, by three convolutions and a mean over the cells.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = 2 * (COLOURS + 1)
        self.layers = nn.ModuleList(nn.Conv2d(size, width, 3, padding=1) for size in (channels, width, width))
        self.out = nn.Linear(width, width)

    def forward(self, first: Grids, second: Grids | None = None) -> Tensor:
        """(P, D) encodings; without a second grid its channels are 0."""
        both = (first,) if second is None else (first, second)
        shape = (max(grids.shape[0] for grids in both), max(grids.shape[1] for grids in both))
        seen = []
        for grids in both:
            mask = grids.mask[..., None].to(grids.colours.dtype)
            seen.append(fit_canvas(torch.cat((grids.colours * mask, mask), dim=-1), shape))
        exists = torch.stack([planes[..., -1] for planes in seen]).amax(0).unsqueeze(1)
        planes = torch.cat(seen if second is not None else [*seen, torch.zeros_like(seen[0])], dim=-1)
        hidden = planes.permute(0, 3, 1, 2)
        for layer in self.layers:
            hidden = functional.relu(layer(hidden)) * exists
        encoded: Tensor = self.out(hidden.sum((2, 3)) / exists.sum((2, 3)).clamp(min=1))
        return encoded


class EncodedSelector(nn.Module):
    """Logits by an encoding that is refined in cycles, z from y and z, then y from z and y, as in TRM.

    The starting z is learned where the first cycle keeps its gradient.

    Args:
        config: the selector (``demos`` or ``input``), its width and its recursion.
        rules: number of rules.
        conditions: number of conditions.
    """

    start: Tensor

    def __init__(self, config: SymbolicConfig, rules: int, conditions: int) -> None:
        super().__init__()
        width, parts = config.hidden_size, 3 if config.inject == "every_cycle" else 2
        self.cycles, self.last_only = config.cycles, config.cycle_grad == "last"
        self.inject = config.inject
        self.inputs_alone = config.selector == "input"
        self.encoder = DemonstrationEncoder(width)
        start = torch.zeros(width)
        if self.last_only and self.cycles > 1:  # no gradient can reach it, so it is no weight
            self.register_buffer("start", start)
        else:
            self.start = nn.Parameter(start)
        self.refine_z, self.refine_y = (
            nn.Sequential(nn.Linear(parts * width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(2)
        )
        self.norm_z, self.norm_y = nn.LayerNorm(width), nn.LayerNorm(width)
        self.sizes = (rules, conditions, SOURCES, COLOURS)
        self.heads = nn.Linear(width, sum(self.sizes))

    def forward(self, encoded: Tensor) -> Tensor:
        """(R, T) logits from (R, D) encodings."""
        y, z = encoded, self.start.expand_as(encoded)
        for cycle in range(self.cycles):
            keeps = not self.last_only or cycle == self.cycles - 1
            with torch.set_grad_enabled(torch.is_grad_enabled() and keeps):
                given = (encoded,) if self.inject == "every_cycle" else ()
                z = self.norm_z(z + self.refine_z(torch.cat((y, z, *given), dim=1)))
                y = self.norm_y(y + self.refine_y(torch.cat((z, y, *given), dim=1)))
        return join_logits(*self.heads(y).split(self.sizes, dim=1))

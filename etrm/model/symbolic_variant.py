"""The symbolic solver as a variant: an encoder that weighs templates, and a core that applies them.

Shapes: B samples, S query tokens, T templates.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from etrm.batch import Batch, Demos
from etrm.config import SIDE, ModelConfig, SymbolicConfig
from etrm.config.symbolic import Selection
from etrm.device import to_device
from etrm.model.act import Carry, EncoderState
from etrm.model.encoders import Encoded, Encoder
from etrm.model.variant import Given, StepOutput, Variant
from etrm.symbolic.batches import queries_as_demos, read_demonstrations, read_queries
from etrm.symbolic.selector import draw_gumbel, measure_entropy, weigh
from etrm.symbolic.solver import Rating, SymbolicCore, make_selector, rate_templates
from etrm.symbolic.templates import Templates

ROUNDING = 1e-6
"""Smallest chance of a token; a context that is no distribution, as a test may hand over, could give less than 0."""


class TemplateEncoder(Encoder):
    """Weighs the templates of a core by demonstrations.

    The context (B, 1, ...) is a distribution over the T templates, followed by the chances of guards, if there are any.

    Args:
        config: the selector and its temperature.
        templates: T templates. Their predicates belong to the core, and no weight of them stands here.
    """

    def __init__(self, config: SymbolicConfig, templates: Templates) -> None:
        super().__init__()
        self.config = config
        self.templates = templates
        self.selector = make_selector(config, templates)
        self.progress = 0.0

    @property
    def temperature(self) -> float:
        """The temperature at this point of training: from the first to the last one by equal factors."""
        first, last = self.config.temperature, self.config.last_temperature
        return first if last is None else first * (last / first) ** self.progress

    def rate(self, demos: Demos) -> Rating:
        """Rate the templates for the B samples of the demonstrations."""
        selection: Selection = self.config.selection if self.training else "hard"
        given = read_demonstrations(demos)
        return rate_templates(self.selector, self.templates, given, demos.rows, selection)

    def forward(self, demos: Demos, carried: EncoderState | None = None) -> Encoded:
        """Weigh the templates; with the selector ``input`` the demonstrations are the queries, without outputs."""
        noise = demos.noise if self.training else None
        rating = self.rate(demos)
        entropy = measure_entropy(rating.logits, self.temperature, noise)
        weights = weigh(rating.logits, self.temperature, noise)
        return Encoded(rating.join(weights).unsqueeze(1), entropy=entropy)


def weigh_templates(model: Variant, carry: Carry, batch: Batch) -> Given:
    """Weigh the templates by the demonstrations, or by the query alone with the selector ``input``."""
    assert model.encoder is not None
    by_query = model.config.symbolic.selector == "input"
    encoded: Encoded = model.encoder(queries_as_demos(batch) if by_query else batch.demos)
    return Given(encoded.context, entropy=encoded.entropy)


class SymbolicVariant(Variant):
    """The symbolic solver: one step, a constant halting logit, and log probabilities of tokens as logits.

    Args:
        config: the settings of the model, of which the section ``symbolic`` has an effect.
        puzzles: the number of rows of a puzzle table, which it does not have.
        side: the side of the canvas.
    """

    if TYPE_CHECKING:
        core: SymbolicCore
        encoder: TemplateEncoder

    def __init__(self, config: ModelConfig, *, puzzles: int = 0, side: int = SIDE) -> None:
        super().__init__()
        self.config = config
        self.core = SymbolicCore(config.symbolic)
        self.encoder = TemplateEncoder(config.symbolic, self.core.templates)
        self.puzzle_table = None
        self.context_policy = weigh_templates

    @property
    def context_shape(self) -> tuple[int, int]:
        """1, and the number of templates and of chances of guards."""
        templates = self.core.templates
        return 1, templates.count + math.prod(templates.guards)

    def anneal(self, progress: float) -> None:
        """Move the temperature."""
        self.encoder.progress = progress

    def draw_noise(self, rows: int, pairs: int) -> Tensor | None:
        """Gumbel noise (rows, T) of a sampled template, from torch's global generator; None of other selections."""
        sampled = self.config.symbolic.selection == "straight_through"
        return draw_gumbel(rows, self.core.templates.count) if sampled else None

    def draw_noisy(self, context: Tensor) -> Tensor:
        """The context (B, 1, ...) with Gumbel noise on the templates, so that the best is a sample of the softmax."""
        count = self.core.templates.count
        weights, guards = context[..., :count].squeeze(1), context[..., count:]
        noise = to_device(draw_gumbel(*weights.shape), weights.device) / self.encoder.temperature
        tiny = torch.finfo(weights.dtype).tiny
        drawn = weigh(weights.clamp(min=tiny).log(), 1.0, noise).unsqueeze(1)
        return torch.cat((drawn, guards), dim=-1)

    def step(
        self, carry: Carry, batch: Batch, context: Tensor, minimum: Tensor | None = None
    ) -> tuple[Carry, StepOutput]:
        """Apply the weighed templates (B, 1, ...) to the queries; every row is done then."""
        queries = read_queries(batch)
        chances = self.core(queries.grids, queries.region, context=context).float()
        smoothing = self.config.symbolic.smoothing
        chances = (1 - smoothing) * queries.read(chances) + smoothing / chances.shape[-1]
        done = torch.ones_like(carry.halted)
        carry = replace(carry, steps=carry.steps.masked_fill(carry.halted, 0) + 1, halted=done)
        q_halt = chances.new_zeros(batch.size)
        return carry, StepOutput(chances.clamp(min=ROUNDING).log(), q_halt, context)

"""Encoders whose state continues from one ACT step to the next (the published ETRMTRM).

Shapes: R context rows, K pairs of one row, P context tokens, D hidden. After the published code
(bdsaglam/etrm), with one difference: there the returned context is detached too, so no encoder
parameter ever has a gradient. Here only what is carried is detached, and the step's context is not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etrm.config import ModelConfig
from etrm.model.act import EncoderState
from etrm.model.encoders.base import Encoded, Encoder, mean_of_set
from etrm.model.encoders.pairs import choose_block_settings
from etrm.model.encoders.standard import GridEncoder
from etrm.model.forward_context import run_network
from etrm.model.layers import (
    Block,
    CrossAttentionBlock,
    RotaryPositions,
    Rotation,
    key_mask,
    truncated_normal_,
)

KEPT = 0.9
"""Share of the old state in the new one, as published."""
LAYERS, H_CYCLES, L_CYCLES = 2, 3, 4
"""Sizes of the trm_style encoder, as published."""


class CarriedEncoder(Encoder):
    """Standard pair vectors refine a state; the context is its smoothed first part.

    Subclasses name their states in ``names``; each begins from its own buffer (P, D) of std 1.
    """

    names: tuple[str, ...]

    def __init__(self, config: ModelConfig, side: int) -> None:
        super().__init__()
        self.grid_encoder = GridEncoder(config, side)
        for name in self.names:
            start = torch.empty(config.context_tokens, config.hidden_size)
            self.register_buffer(f"{name}_init", truncated_normal_(start, 1.0))

    def initial_state(self) -> EncoderState:
        """Return the initial state of a row, tensors (P, D)."""
        return {name: self.get_buffer(f"{name}_init") for name in self.names}

    def read(self, pairs: Tensor, mask: Tensor, carried: EncoderState | None = None) -> Encoded:
        """Sets (R, K, D) with their mask (R, K) to a context; without ``carried`` every row resets."""
        if carried is None:
            carried = self.begin(None, mask.new_ones(len(mask)))
            assert carried is not None
        old = {name: value.detach() for name, value in carried.items()}
        new = self.refine(old, pairs, mask)
        mixed = {name: KEPT * old[name] + (1 - KEPT) * new[name] for name in self.names}
        state = {name: value.detach() for name, value in mixed.items()}
        return Encoded(mixed[self.names[0]], state=state)

    def refine(self, old: EncoderState, pairs: Tensor, mask: Tensor) -> EncoderState:
        """Compute the states (R, P, D) after one step, before smoothing."""
        raise NotImplementedError


class RecurrentEncoder(CarriedEncoder):
    """The state attends to the pair vectors once per ACT step."""

    names = ("z",)

    def __init__(self, config: ModelConfig, side: int) -> None:
        super().__init__(config, side)
        self.cross_attention = CrossAttentionBlock(choose_block_settings(config, pre_norm=False))

    def refine(self, old: EncoderState, pairs: Tensor, mask: Tensor) -> EncoderState:
        """Compute the states (R, P, D) after one step, before smoothing."""
        return {"z": self.cross_attention(old["z"], pairs, key_mask(mask, pairs))}


class TRMStyleEncoder(CarriedEncoder):
    """Two states over the P tokens, refined in cycles as the core's, with the mean pair vector as input."""

    names = ("z_H", "z_L")

    def __init__(self, config: ModelConfig, side: int) -> None:
        super().__init__(config, side)
        self.context_tokens = config.context_tokens
        settings = choose_block_settings(config, pre_norm=False)
        self.layers = nn.ModuleList(Block(settings) for _ in range(LAYERS))
        self.positions = RotaryPositions(config.context_tokens, config.hidden_size // config.num_heads)

    def refine(self, old: EncoderState, pairs: Tensor, mask: Tensor) -> EncoderState:
        """Compute the states (R, P, D) after one step, before smoothing; only the last H cycle has a graph."""
        x = mean_of_set(pairs, mask).unsqueeze(1)
        rotation = self.positions(torch.arange(self.context_tokens, device=pairs.device).unsqueeze(0))
        z_H, z_L = old["z_H"], old["z_L"]
        with torch.no_grad():
            for _ in range(H_CYCLES - 1):
                z_H, z_L = self._cycle(z_H, z_L, x, rotation)
        z_H, z_L = self._cycle(z_H, z_L, x, rotation)
        return {"z_H": z_H, "z_L": z_L}

    def _cycle(self, z_H: Tensor, z_L: Tensor, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        for _ in range(L_CYCLES):
            z_L = self._blocks(z_L + z_H + x, rotation)
        return self._blocks(z_H + z_L, rotation), z_L

    def _blocks(self, h: Tensor, rotation: Rotation) -> Tensor:
        for block in self.layers:
            h = run_network(block, h, rotation, None)
        return h

"""Encoders with the grid encoder of "Searching Latent Program Spaces" (LPN; Bonnet and Macfarlane, 2024).

Shapes: N pairs of all samples, L tokens of a pair, R context rows, K pairs of one row, P context
tokens, D hidden. The constants follow the published ETRM code (bdsaglam/etrm).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etrm.batch import Demos
from etrm.config import ModelConfig
from etrm.model.act import EncoderState
from etrm.model.encoders.base import Encoded, Encoder, mean_of_set
from etrm.model.encoders.pairs import PairEncoder, choose_block_settings
from etrm.model.encoders.standard import SetEncoder
from etrm.model.forward_context import run_network
from etrm.model.layers import Block, Linear, key_mask, rms_norm, truncated_normal_


class LPNGridEncoder(PairEncoder):
    """Encode a pair as the state of a CLS token before its tokens; always pre-norm."""

    def __init__(self, config: ModelConfig, side: int) -> None:
        super().__init__(config, side)
        self.cls_token = nn.Parameter(truncated_normal_(torch.empty(1, 1, config.hidden_size), 0.02))
        settings = choose_block_settings(config, pre_norm=True)
        self.layers = nn.ModuleList(Block(settings) for _ in range(config.encoder.layers))

    def encode(self, demos: Demos) -> Tensor:
        """Encode all pairs at once as (N, D), padded to the longest."""
        h = torch.cat((self.cls_token.expand(len(demos.tokens), -1, -1), self.embed(demos)), dim=1)
        # CLS is not rotated, and a rotation by position 0 is none.
        rotation = self.positions(F.pad(demos.positions, (1, 0)))
        mask = None if demos.valid is None else key_mask(F.pad(demos.valid, (1, 0), value=True), h)
        for block in self.layers:
            h = run_network(block, h, rotation, mask)
        return rms_norm(h[:, 0])


class LPNStandardEncoder(Encoder):
    """The mean pair vector, spread over the P tokens by one linear map."""

    def __init__(self, config: ModelConfig, side: int) -> None:
        super().__init__()
        self.grid_encoder = LPNGridEncoder(config, side)
        self.output_proj = Linear(config.hidden_size, config.context_tokens * config.hidden_size)

    def read(self, pairs: Tensor, mask: Tensor, carried: EncoderState | None = None) -> Encoded:
        """Sets (R, K, D) with their mask (R, K) to a context, which has no norm."""
        return Encoded(self.output_proj(mean_of_set(pairs, mask)).view(len(pairs), -1, pairs.shape[-1]))


class HybridStandardEncoder(Encoder):
    """LPN pair vectors, then the standard set encoder."""

    def __init__(self, config: ModelConfig, side: int) -> None:
        super().__init__()
        self.grid_encoder = LPNGridEncoder(config, side)
        self.set_encoder = SetEncoder(config)

    def read(self, pairs: Tensor, mask: Tensor, carried: EncoderState | None = None) -> Encoded:
        """Sets (R, K, D) with their mask (R, K) to a context."""
        return Encoded(self.set_encoder(pairs, mask))

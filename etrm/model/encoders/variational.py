"""Encoders whose context goes through a random latent.

Shapes: R context rows, K pairs of one row, P context tokens, D hidden, Z latent. After the published
ETRM code (bdsaglam/etrm), except that both kinds start with unit variance and clamp it, and that the
divergence is one number per row, so that its weight means the same at every batch size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etrm.batch import Demos
from etrm.config import ModelConfig
from etrm.device import to_device
from etrm.model.act import EncoderState
from etrm.model.encoders.base import Encoded, Encoder, mean_of_set
from etrm.model.encoders.lpn import LPNGridEncoder
from etrm.model.encoders.standard import SetEncoder
from etrm.model.layers import Linear, rms_norm

LOGVAR_LIMIT = 10.0
"""Bound of the log variance, which keeps its exponential finite (our choice)."""


class Latent(nn.Module):
    """A diagonal normal of vectors, sampled in training mode and replaced by its mean in evaluation.

    The noise comes from torch's global CPU generator on every device. A checkpoint keeps the state of that
    generator, so that a resumed run draws the same noise.
    """

    def __init__(self, hidden_size: int, latent_size: int) -> None:
        super().__init__()
        self.mu_proj = Linear(hidden_size, latent_size, bias=True)
        self.logvar_proj = Linear(hidden_size, latent_size, bias=True)
        nn.init.zeros_(self.logvar_proj.weight)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(..., D) to the latent (..., Z) and its divergence (...) from the unit normal, summed over Z.

        ``noise`` (..., Z) is drawn here where it is None.
        """
        # At least in float32: the divergence is a small difference of large terms.
        precise = torch.promote_types(x.dtype, torch.float32)
        mu, logvar = self.mu_proj(x).to(precise), self.logvar_proj(x).to(precise)
        logvar = logvar.clamp(-LOGVAR_LIMIT, LOGVAR_LIMIT)
        kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(-1)
        if not self.training:
            return mu, kl
        noise = torch.randn(mu.shape) if noise is None else noise
        return mu + (0.5 * logvar).exp() * to_device(noise, mu.device).to(mu.dtype), kl


class VariationalEncoder(Encoder):
    """Base of the encoders with a latent."""

    def forward(self, demos: Demos, carried: EncoderState | None = None) -> Encoded:
        """Encode the demos of R rows, with their noise in training."""
        return self.sample(*self.pair_sets(demos), demos.noise)

    def read(self, pairs: Tensor, mask: Tensor, carried: EncoderState | None = None) -> Encoded:
        """Sets (R, K, D) with their mask (R, K) to a context."""
        return self.sample(pairs, mask, None)

    def sample(self, pairs: Tensor, mask: Tensor, noise: Tensor | None) -> Encoded:
        """The same with the noise of every row, of :meth:`noise_shape` or longer in K; drawn if None."""
        raise NotImplementedError


class LPNVariationalEncoder(VariationalEncoder):
    """A latent of every pair; their mean, spread over the P tokens by one linear map."""

    def __init__(self, config: ModelConfig, side: int) -> None:
        super().__init__()
        width = config.hidden_size
        size = config.encoder.latent_size or width
        self.grid_encoder = LPNGridEncoder(config, side)
        self.latent = Latent(width, size)
        self.output_proj = Linear(size, config.context_tokens * width)

    def noise_shape(self, pairs: int) -> tuple[int, ...]:
        """A latent of every pair, (K, Z)."""
        return pairs, self.output_proj.in_features

    def sample(self, pairs: Tensor, mask: Tensor, noise: Tensor | None) -> Encoded:
        """Sets (R, K, D) with their mask (R, K) to a context; the divergence is the mean of the pairs'."""
        z, kl = self.latent(pairs, None if noise is None else noise[:, : pairs.shape[1]])
        context = self.output_proj(mean_of_set(z, mask)).view(len(pairs), -1, pairs.shape[-1])
        with torch.autocast(kl.device.type, enabled=False):
            return Encoded(context, kl=mean_of_set(kl, mask))


class HybridVariationalEncoder(VariationalEncoder):
    """One latent of the whole set, read from the mean token of the hybrid encoder's context."""

    def __init__(self, config: ModelConfig, side: int) -> None:
        super().__init__()
        width = config.hidden_size
        size = config.encoder.latent_size or width
        self.grid_encoder = LPNGridEncoder(config, side)
        self.set_encoder = SetEncoder(config)
        self.latent = Latent(width, size)
        self.output_proj = Linear(size, config.context_tokens * width)

    def noise_shape(self, pairs: int) -> tuple[int, ...]:
        """One latent of the set, (Z,)."""
        return (self.output_proj.in_features,)

    def sample(self, pairs: Tensor, mask: Tensor, noise: Tensor | None) -> Encoded:
        """Sets (R, K, D) with their mask (R, K) to a context."""
        z, kl = self.latent(rms_norm(self.set_encoder(pairs, mask).mean(1)), noise)
        return Encoded(self.output_proj(z).view(len(pairs), -1, pairs.shape[-1]), kl=kl)

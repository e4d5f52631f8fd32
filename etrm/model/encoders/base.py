"""The base of all demonstration encoders, which turn the pair vectors of a sample into one context.

Shapes: R context rows (samples), N pairs of all rows, K pairs of one row, P context tokens,
D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from etrm.batch import Demos
from etrm.model.act import EncoderState
from etrm.model.encoders.pairs import PAD, PairEncoder


@dataclass(frozen=True)
class Encoded:
    """The output of an encoder for R rows.

    Attributes:
        context: (R, P, D) the context.
        kl: (R,) KL divergence of a variational encoder from the unit normal, else None.
        state: the state of a stateful encoder for its next ACT step, tensors (R, P, D) without a graph;
            None for a stateless one.
        entropy: (R,) entropy in nats of a context that is a distribution, else None.
    """

    context: Tensor
    kl: Tensor | None = None
    state: EncoderState | None = None
    entropy: Tensor | None = None


class Encoder(nn.Module):
    """Base of the encoders: encode every real pair as a vector, then :meth:`read` the set of each row."""

    grid_encoder: PairEncoder

    def forward(self, demos: Demos, carried: EncoderState | None = None) -> Encoded:
        """Encode the demos of R rows; ``carried`` is the result of :meth:`begin`."""
        return self.read(*self.pair_sets(demos), carried)

    def noise_shape(self, pairs: int) -> tuple[int, ...] | None:
        """Return the shape of one row's noise in training, with at most ``pairs`` pairs; None if not variational."""
        return None

    def pair_sets(self, demos: Demos) -> tuple[Tensor, Tensor]:
        """Encode the pairs of every row as vectors (R, K, D), with (R, K) bool of those that exist.

        If nothing is pooled, the K vectors are those of all tokens of a row's pairs.
        """
        laid = self.grid_encoder.lay_out(demos)
        vectors = self.grid_encoder(laid)
        sets, mask = as_sets(vectors, laid)
        if vectors.dim() == 2:
            return sets, mask
        real, _ = as_sets(laid.tokens != PAD, laid)
        return sets.flatten(1, 2), real.flatten(1)

    def read(self, pairs: Tensor, mask: Tensor, carried: EncoderState | None = None) -> Encoded:
        """Compute the context from sets (R, K, D) with their mask (R, K)."""
        raise NotImplementedError

    def initial_state(self) -> EncoderState:
        """Return the initial state of a row, tensors (P, D); empty for a stateless encoder."""
        return {}

    def begin(self, carried: EncoderState | None, begins: Tensor) -> EncoderState | None:
        """Return the state (R, P, D) with the rows of ``begins`` (R,) bool reset; None if stateless."""
        initial, fresh = self.initial_state(), begins[:, None, None]
        if not initial:
            return None
        if carried is None:
            return {name: start.expand(len(begins), -1, -1) for name, start in initial.items()}
        return {name: torch.where(fresh, start, carried[name]) for name, start in initial.items()}


def as_sets(pairs: Tensor, demos: Demos) -> tuple[Tensor, Tensor]:
    """Group values (N, ...) of pairs by owner into padded sets (R, K, ...) with their mask (R, K)."""
    # Not bincount: the size of its result depends on values, so the host would wait for them.
    counts = demos.owner.new_zeros(demos.rows).index_add_(0, demos.owner, torch.ones_like(demos.owner))
    first = counts.cumsum(0) - counts
    place = torch.arange(len(pairs), device=pairs.device) - first[demos.owner]
    most = int(counts.max()) if demos.most is None else demos.most
    sets = pairs.new_zeros(demos.rows, most, *pairs.shape[1:]).index_put((demos.owner, place), pairs)
    return sets, torch.arange(most, device=pairs.device) < counts[:, None]


def mean_of_set(values: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean of (R, K, ...) over the existing K, by (R, K) bool; zero if none exists."""
    shares = mask / mask.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("rk,rk...->r...", shares.to(values.dtype), values)

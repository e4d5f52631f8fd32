"""The context of a step as a plain function of weights and demonstrations, for every encoder kind of this package.

Shapes: R rows, N pairs of all rows, K pairs of one row, L tokens of a pair, P context tokens, D hidden, Z latent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from etrm.config import SIDE, EncoderConfig, ModelConfig
from etrm.device import to_host
from etrm.reference.data.canvas import Integers
from etrm.reference.model.network import (
    BlockForm,
    Weights,
    attend,
    block,
    cross_block,
    layers_of,
    linear,
    norm,
    part,
    split_heads,
)

PADDING = 0  # token of empty places
KEPT_SHARE = 0.9  # of the old state in the new one of a stateful encoder, as published
INNER_H_CYCLES, INNER_L_CYCLES = 3, 4  # of the trm_style encoder, as published
LARGEST_LOGVAR = 10.0  # bound of log variances, which the package chose


@dataclass(frozen=True)
class DemoPairs:
    """Pairs of R rows.

    Attributes:
        tokens, positions: (N, L) int64; an output grid follows its input grid, with places from SIDE**2.
        valid: (N, L) bool, None if no token is masked.
        owner: (N,) int64 row of each pair.
        rows: the number R.
        noise: noise (R, ...) of a variational encoder in training; None in evaluation, where its latent is the mean.
    """

    tokens: Tensor
    positions: Tensor
    valid: Tensor | None
    owner: Tensor
    rows: int
    noise: Tensor | None = None

    def of(self, rows: list[int]) -> DemoPairs:
        """The pairs of some rows, in the order of the rows."""
        picks = [pair for row in rows for pair in (self.owner == row).nonzero().flatten().tolist()]
        place = {row: number for number, row in enumerate(rows)}
        longest = self.tokens.shape[1]
        if self.valid is not None and picks:
            longest = int(self.valid[picks].sum(1).max())
        return DemoPairs(
            self.tokens[picks, :longest],
            self.positions[picks, :longest],
            None if self.valid is None else self.valid[picks, :longest],
            torch.tensor(
                [place[int(row)] for row in self.owner[picks]], dtype=torch.long, device=self.owner.device
            ),
            len(rows),
            None if self.noise is None else self.noise[rows],
        )

    def shown_to(self, row: int) -> list[tuple[Integers, Integers]]:
        """The tokens (L,) and positions (L,) of each pair of a row, on the host and without padding."""
        found = []
        for pair in (self.owner == row).nonzero().flatten().tolist():
            exist = slice(None) if self.valid is None else self.valid[pair]
            found.append(
                (to_host(self.tokens[pair][exist]).numpy(), to_host(self.positions[pair][exist]).numpy())
            )
        return found


@dataclass(frozen=True)
class ContextResult:
    """A context (R, P, D), its divergence (R,) if the encoder is variational, and the state of a stateful one."""

    context: Tensor
    kl: Tensor | None = None
    state: dict[str, Tensor] | None = None


def look_up(weights: Weights, ids: Tensor, tokens: int) -> Tensor:
    """TRM's context (R, P, D): the row of an id, and zeros."""
    first = weights["puzzle_table.weights"][ids][:, None, :]
    return torch.cat((first, first.new_zeros(len(ids), tokens - 1, first.shape[-1])), dim=1)


def start_state(weights: Weights, model: ModelConfig, rows: int) -> dict[str, Tensor] | None:
    """The state (R, P, D) with which a stateful encoder begins, by name; None of a stateless one."""
    names = {"recurrent": ("z",), "trm_style": ("z_H", "z_L")}.get(model.encoder.kind)
    return None if names is None else {name: weights[f"{name}_init"].expand(rows, -1, -1) for name in names}


def encode(
    weights: Weights, model: ModelConfig, demos: DemoPairs, state: Mapping[str, Tensor] | None
) -> ContextResult:
    """Encode demonstrations.

    Args:
        weights: those of the encoder.
        model: the settings of the model.
        demos: the demonstrations.
        state: the state (R, P, D) of a stateful encoder, with rows that begin already reset.
    """
    settings = model.encoder
    pre_norm = settings.norm == "pre"
    form = BlockForm(model.num_heads, pre_norm, settings.qk_norm)
    tokens = _embed(weights, demos) if settings.layout == "sequence" else _embed_cells(weights, demos)
    if settings.kind in ("standard", "recurrent", "trm_style"):
        vectors = _pooled_pairs(weights, settings, form, tokens)
    else:
        vectors = _first_tokens(weights, BlockForm(model.num_heads, True, settings.qk_norm), tokens)
    sets, exists = _as_sets(vectors, demos)
    if sets.ndim == 4:  # nothing was pooled
        exists = (_as_sets(tokens.real, demos)[0] & exists[..., None]).flatten(1)
        sets = sets.flatten(1, 2)
    match settings.kind:
        case "standard" | "hybrid_standard":
            return ContextResult(_read_set(weights, form, sets, exists))
        case "lpn_standard":
            return ContextResult(_spread(weights, _mean(sets, exists), model))
        case "lpn_variational":
            z, kl = _latent(weights, sets, None if demos.noise is None else demos.noise[:, : sets.shape[1]])
            return ContextResult(_spread(weights, _mean(z, exists), model), kl=_mean(kl, exists))
        case "hybrid_variational":
            z, kl = _latent(weights, norm(_read_set(weights, form, sets, exists).mean(1)), demos.noise)
            return ContextResult(_spread(weights, z, model), kl=kl)
    assert state is not None
    post = BlockForm(model.num_heads, False, settings.qk_norm)
    old = {name: value.detach() for name, value in state.items()}
    if settings.kind == "recurrent":
        new = {"z": cross_block(part(weights, "cross_attention"), post, old["z"], sets, exists)}
    else:
        new = _refine(weights, post, old, _mean(sets, exists)[:, None])
    mixed = {name: KEPT_SHARE * old[name] + (1 - KEPT_SHARE) * new[name] for name in new}
    context = mixed["z" if settings.kind == "recurrent" else "z_H"]
    return ContextResult(context, state={name: value.detach() for name, value in mixed.items()})


@dataclass(frozen=True)
class _Tokens:
    """Embedded tokens (N, L, D), their places (N, L), which exist (N, L) or None, and which are not padding (N, L)."""

    embedded: Tensor
    places: Tensor
    exist: Tensor | None
    real: Tensor


def _embed(weights: Weights, demos: DemoPairs) -> _Tokens:
    first = weights["grid_encoder.input_embed.embedding_weight"][demos.tokens]
    second = weights["grid_encoder.output_embed.embedding_weight"][demos.tokens]
    is_output = (demos.positions >= SIDE * SIDE)[..., None]
    h = torch.where(is_output, second, first) * math.sqrt(first.shape[-1])
    return _Tokens(h, demos.positions, demos.valid, demos.tokens != PADDING)


def _embed_cells(weights: Weights, demos: DemoPairs) -> _Tokens:
    """One token per cell: the sum of what both grids have there, over sqrt(2)."""
    area, device = SIDE * SIDE, demos.tokens.device
    valid = torch.ones_like(demos.tokens) if demos.valid is None else demos.valid
    pairs: list[dict[int, list[int]]] = []
    for tokens, places, exists in zip(
        demos.tokens.tolist(), demos.positions.tolist(), valid.tolist(), strict=True
    ):
        cells: dict[int, list[int]] = {}
        for token, place, there in zip(tokens, places, exists, strict=True):
            if there:
                cells.setdefault(place % area, [PADDING, PADDING])[place // area] = token
        pairs.append(dict(sorted(cells.items())))
    longest = max(map(len, pairs), default=0)
    both = torch.tensor(
        [[*cells.values(), *[[PADDING, PADDING]] * (longest - len(cells))] for cells in pairs], device=device
    ).view(len(pairs), longest, 2)
    places = torch.tensor([[*cells, *[0] * (longest - len(cells))] for cells in pairs], device=device)
    counts = torch.tensor([len(cells) for cells in pairs], device=device)
    first = weights["grid_encoder.input_embed.embedding_weight"][both[..., 0]]
    second = weights["grid_encoder.output_embed.embedding_weight"][both[..., 1]]
    exist = None if demos.valid is None else torch.arange(longest, device=device) < counts[:, None]
    h = (first + second) * math.sqrt(first.shape[-1]) / math.sqrt(2)
    return _Tokens(h, places.view(len(pairs), longest), exist, (both != PADDING).any(-1))


def _pooled_pairs(weights: Weights, settings: EncoderConfig, form: BlockForm, tokens: _Tokens) -> Tensor:
    """Vectors (N, D) of pairs, pooled over tokens that are not padding; (N, L, D) of tokens if nothing is pooled."""
    grid = part(weights, "grid_encoder")
    h, real = tokens.embedded, tokens.real
    for layer in layers_of(grid, "layers"):
        h = block(layer, form, h, tokens.places, tokens.exist)
    if settings.pooling == "none":
        return linear(grid, "pool_proj", h)
    if settings.pooling == "mean":
        pooled = (h * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
    elif settings.pooling == "weighted":
        scores = linear(grid, "pool_weight_proj", h)[..., 0].masked_fill(~real, -torch.inf)
        pooled = (h * scores.softmax(1)[..., None]).sum(1)
    else:
        query = linear(grid, "pool_q_proj", grid["pool_query"]).expand(len(h), 1, -1)
        key, value = linear(grid, "pool_k_proj", h), linear(grid, "pool_v_proj", h)
        query, key, value = (split_heads(x, form.heads) for x in (query, key, value))
        mixed = attend(query, key, value, real)
        pooled = linear(grid, "pool_o_proj", mixed[:, 0])
    return linear(grid, "pool_proj", pooled)


def _first_tokens(weights: Weights, form: BlockForm, tokens: _Tokens) -> Tensor:
    """Vectors (N, D) of pairs: the state of a token before theirs, at place 0."""
    grid = part(weights, "grid_encoder")
    count = len(tokens.embedded)
    h = torch.cat((grid["cls_token"].expand(count, 1, -1), tokens.embedded), dim=1)
    places = torch.cat((tokens.places.new_zeros(count, 1), tokens.places), dim=1)
    exists = None
    if tokens.exist is not None:
        exists = torch.cat((tokens.exist.new_ones(count, 1), tokens.exist), dim=1)
    for layer in layers_of(grid, "layers"):
        h = block(layer, form, h, places, exists)
    return norm(h[:, 0])


def _as_sets(vectors: Tensor, demos: DemoPairs) -> tuple[Tensor, Tensor]:
    """The values (N, ...) of the pairs of each row (R, K, ...) in their order, and which of them exist (R, K)."""
    members = [(demos.owner == row).nonzero().flatten() for row in range(demos.rows)]
    most = max((len(found) for found in members), default=0)
    rows = [
        torch.cat((vectors[found], vectors.new_zeros(most - len(found), *vectors.shape[1:])))
        for found in members
    ]
    exists = [torch.arange(most, device=vectors.device) < len(found) for found in members]
    return torch.stack(rows), torch.stack(exists)


def _mean(values: Tensor, exists: Tensor) -> Tensor:
    """The mean of (R, K, ...) over those that exist (R, K)."""
    mask = exists.reshape(*exists.shape, *(1,) * (values.ndim - 2))
    return (values * mask).sum(1) / mask.sum(1).clamp(min=1)


def _read_set(weights: Weights, form: BlockForm, sets: Tensor, exists: Tensor) -> Tensor:
    reader = part(weights, "set_encoder")
    h = reader["query_tokens"].expand(len(sets), -1, -1)
    for layer in layers_of(reader, "layers"):
        h = cross_block(layer, form, h, sets, exists)
    return norm(h)


def _spread(weights: Weights, vector: Tensor, model: ModelConfig) -> Tensor:
    return linear(weights, "output_proj", vector).reshape(
        len(vector), model.context_tokens, model.hidden_size
    )


def _latent(weights: Weights, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """mu + sigma noise, or mu without noise, and the divergence of N(mu, sigma) from N(0, 1), summed over Z."""
    mu = linear(weights, "latent.mu_proj", x)
    logvar = linear(weights, "latent.logvar_proj", x).clamp(-LARGEST_LOGVAR, LARGEST_LOGVAR)
    divergence = 0.5 * (logvar.exp() + mu.square() - 1 - logvar).sum(-1)
    return mu if noise is None else mu + torch.exp(logvar / 2) * noise, divergence


def _refine(weights: Weights, form: BlockForm, old: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """The states of a trm_style encoder after its cycles, only the last with a graph."""
    network = layers_of(weights, "layers")
    z_H, z_L = old["z_H"], old["z_L"]
    places = torch.arange(z_H.shape[1], device=z_H.device).expand(len(z_H), -1)

    def refine(h: Tensor) -> Tensor:
        for layer in network:
            h = block(layer, form, h, places, None)
        return h

    for cycle in range(INNER_H_CYCLES):
        with torch.set_grad_enabled(torch.is_grad_enabled() and cycle == INNER_H_CYCLES - 1):
            for _ in range(INNER_L_CYCLES):
                z_L = refine(z_L + z_H + x)
            z_H = refine(z_H + z_L)
    return {"z_H": z_H, "z_L": z_L}

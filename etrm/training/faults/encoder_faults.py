"""Faults of H2: the encoder gets no gradient, or its weights do not change."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.optim import Optimizer

from etrm.batch import Batch
from etrm.model.act import Carry
from etrm.model.recursive import encode_at_reset
from etrm.model.variant import ContextPolicy, Given, Variant
from etrm.training.faults.seam import (
    Fault,
    change_context,
    change_model,
    change_settings,
    freeze_decoder_settings,
    wrap_policy,
)
from etrm.training.recipe import Recipe


def _cached_context(recipe: Recipe) -> Recipe:
    return wrap_policy(recipe, lambda policy: encode_at_reset)


def _encoder_skipped(recipe: Recipe) -> Recipe:
    def wrap(policy: ContextPolicy) -> ContextPolicy:
        def first_batch_alone(model: Variant, carry: Carry, batch: Batch) -> Given:
            if carry.context is not None:
                return Given(carry.context, stored=carry.context)
            given = policy(model, carry, batch)
            return Given(given.context, stored=given.context.detach(), kl=given.kl)

        return first_batch_alone

    return wrap_policy(recipe, wrap)


def _context_detached(recipe: Recipe) -> Recipe:
    return change_context(recipe, lambda given: replace(given, context=given.context.detach()))


def _encoder_no_grad(recipe: Recipe) -> Recipe:
    def wrap(policy: ContextPolicy) -> ContextPolicy:
        def without_graph(model: Variant, carry: Carry, batch: Batch) -> Given:
            with torch.no_grad():
                return policy(model, carry, batch)

        return without_graph

    return wrap_policy(recipe, wrap)


def _cell_by_cell(context: Tensor) -> Tensor:
    """Return the same numbers, read one at a time: the graph ends here."""
    cells = [cell.item() for cell in context.flatten()]
    return context.new_tensor(cells).reshape(context.shape)


def _read_scalars(recipe: Recipe) -> Recipe:
    return change_context(recipe, lambda given: replace(given, context=_cell_by_cell(given.context)))


def _encoder_frozen(recipe: Recipe) -> Recipe:
    def change(model: Variant) -> None:
        if model.encoder is not None:
            model.encoder.requires_grad_(False)

    return change_model(recipe, change)


def _freeze_skips_optimizer(recipe: Recipe) -> Recipe:
    def update(optimizers: list[Optimizer], frozen: str | None) -> None:
        if frozen != "decoder":
            recipe.update(optimizers, frozen)

    def freeze(model: Variant, part: str, frozen: bool) -> None:
        """Change nothing: the original code tried to freeze by not stepping the optimiser."""

    return replace(change_settings(recipe, freeze_decoder_settings), update=update, freeze=freeze)


FAULTS = (
    Fault(
        "cached-context",
        "the demos of a sample are encoded when it begins; later steps use the detached context",
        "H2",
        "Progress summary: only 2 % of the batch sends gradients to the encoder",
        _cached_context,
        models="recursive",
    ),
    Fault(
        "encoder-skipped",
        "only the first batch is encoded; all later batches use its contexts",
        "H2",
        "Progress summary: with a halting bias of -5 and the cache, the encoder ran once",
        _encoder_skipped,
    ),
    Fault(
        "context-detached",
        "the context is detached before the decoder gets it",
        "H2",
        "the published recurrent encoders: no encoder parameter ever has a gradient",
        _context_detached,
    ),
    Fault(
        "encoder-no-grad",
        "the encoder is called under torch.no_grad",
        "H2",
        "a variant of context-detached: the evaluation path is used in training",
        _encoder_no_grad,
    ),
    Fault(
        "encoder-frozen",
        "requires_grad is False on the whole encoder",
        "H2",
        "Low-performance investigation, hypothesis 2",
        _encoder_frozen,
    ),
    Fault(
        "freeze-skips-optimizer",
        "one optimiser for encoder and decoder, skipped while the decoder is frozen",
        "H2",
        "Low-performance investigation: gradients arrive, but no weight changes",
        _freeze_skips_optimizer,
    ),
    Fault(
        "scalar-read",
        "the context is read value by value with .item(), which ends its graph",
        "H2",
        "Training loss analysis: predicates in a Python loop",
        _read_scalars,
    ),
)

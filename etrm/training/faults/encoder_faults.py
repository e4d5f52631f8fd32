"""H2: the encoder gets no gradient, or does not move."""

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
    def first_batch_alone(model: Variant, carry: Carry, batch: Batch) -> Given:
        if carry.context is None:
            return encode_at_reset(model, carry, batch)
        return Given(carry.context, stored=carry.context)

    return wrap_policy(recipe, lambda policy: first_batch_alone)


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
    """The same numbers, read one at a time and put together again: the graph ends here."""
    cells = [cell.item() for cell in context.flatten()]
    return context.new_tensor(cells).reshape(context.shape)


def _python_loop_predicates(recipe: Recipe) -> Recipe:
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
        """The original left requires_grad alone: it meant to freeze by not stepping."""

    return replace(change_settings(recipe, freeze_decoder_settings), update=update, freeze=freeze)


FAULTS = (
    Fault(
        "cached-context",
        "encode a sample's demos when it begins, keep the context detached while it goes on",
        "H2",
        "seed 001: encoder gradients from 2 % of the batch",
        _cached_context,
    ),
    Fault(
        "encoder-skipped",
        "encode the first batch alone and keep its contexts for all that follow",
        "H2",
        "seed 001: with a halting bias of -5 and the cache, the encoder ran once",
        _encoder_skipped,
    ),
    Fault(
        "context-detached",
        "the context is handed to the decoder without its graph",
        "H2",
        "the published recurrent encoders: no encoder parameter ever has a gradient",
        _context_detached,
    ),
    Fault(
        "encoder-no-grad",
        "the encoder is called under torch.no_grad",
        "H2",
        "near relative of context-detached: the evaluation path used in training",
        _encoder_no_grad,
    ),
    Fault(
        "encoder-frozen",
        "requires_grad is False on the whole encoder",
        "H2",
        "seed 004, hypothesis 2",
        _encoder_frozen,
    ),
    Fault(
        "freeze-skips-optimizer",
        "one optimiser for encoder and decoder, skipped while the decoder is frozen",
        "H2",
        "seed 004: gradients arrive, and nothing trains at all",
        _freeze_skips_optimizer,
    ),
    Fault(
        "python-loop-predicates",
        "the context is computed cell by cell through .item()",
        "H2",
        "seed 000: predicates in a Python loop",
        _python_loop_predicates,
    ),
)
